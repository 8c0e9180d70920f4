"""Bundles that change the backbone while attached: they take turns, and what is computed between sees none of them."""

from pathlib import Path

import numpy as np
import pytest
from support.served_requests import ask, logprobs_alone, make_bundle, new_request, running_engine

from ptl_prefix.backbones.mean_states import mean_states
from ptl_prefix.backbones.spec import load_backbone

TEXT = "The Old Mill is in Rome"


@pytest.mark.parametrize("method", ["lora", "full_finetuning"])
def test_a_routers_hidden_states_are_of_no_bundle(method: str, tiny_folders: dict[str, Path], tmp_path: Path) -> None:
    backbone = load_backbone(str(tiny_folders["gpt2"]), name="gpt2", dtype="float32")
    bare = mean_states(backbone, [TEXT])
    make_bundle(backbone, tmp_path / "tickets", method, seed=3)
    with running_engine(backbone, tmp_path) as engine:

        def asked() -> list[float]:
            bundle = engine._store.find("tickets")
            answer = ask(engine, new_request(backbone, bundle, TEXT, max_new_tokens=30, stop_ids=()))
            found.extend(engine.compute(lambda: mean_states(backbone, [TEXT])) for _ in range(times))
            return answer.wait().logprobs

        found: list[np.ndarray] = []
        times = 0
        alone = asked()
        times = 8
        assert asked() == alone

    assert [float(abs(one - bare).max()) for one in found] == [0.0] * 8


@pytest.mark.parametrize("method", ["full_finetuning", "bitfit", "ia3"])
def test_two_bundles_that_change_the_backbone_take_turns(
    method: str, tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    backbone = load_backbone(str(tiny_folders["gpt2"]), name="gpt2", dtype="float32")
    make_bundle(backbone, tmp_path / "one", method, seed=3)
    make_bundle(backbone, tmp_path / "two", "lora", seed=5)
    with running_engine(backbone, tmp_path) as engine:
        bundles = [engine._store.find(name) for name in ("one", "two")]
        for bundle in bundles:
            engine._store.hold(bundle.version)  # they are read from disk now, so that both requests run together
        asked = [ask(engine, new_request(backbone, one, TEXT, max_new_tokens=36, stop_ids=())) for one in bundles]
        answers = [one.wait() for one in asked]
        num_rounds = engine._scheduler._rounds

    assert num_rounds > 60, "they must have taken turns"
    for name, answer in zip(("one", "two"), answers, strict=True):
        alone = logprobs_alone(backbone, tmp_path / name, answer.request, answer.ids)
        assert max(abs(a - b) for a, b in zip(answer.logprobs, alone, strict=True)) < 1e-4
