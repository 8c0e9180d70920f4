"""The engine: each request gets what it would get alone, whatever runs beside it, joins, leaves or is preempted."""

import dataclasses
import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from support.served_requests import ask, logprobs_alone, make_bundle, new_request, running_engine

from ptl_prefix import load_bundle
from ptl_prefix.backbones.attention_mass import prefix_mass
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import prompt_batch
from ptl_prefix.backbones.spec import load_backbone
from ptl_prefix.errors import BundleError, RequestError

SOURCES = ["the cat", "a pub in the city", "name : Wildwood , food : Italian", "x"]
METHODS: dict[str, dict[str, Any]] = {
    "short": {"method": "prefix_tuning", "seed": 0},
    "long": {"method": "prefix_tuning", "seed": 5},
    "prompt": {"method": "prompt_tuning", "prompt_length": 3},
    "lora": {"method": "lora"},
    "ia3": {"method": "ia3"},
    "adapter": {"method": "adapter", "bottleneck_size": 6},
    "gated": {"method": "gated_prefix", "prefix_length": 3},
    "plus": {"method": "prefix_plus"},
    "both": {
        "method": "prefix_lora",
        "parts": {"first": {"prefix_length": 3, "reparam_hidden_size": 16}, "second": {"rank": 2}},
    },
    "vera": {"method": "peft", "settings": {"r": 4}},
}


@pytest.mark.parametrize(
    "family", ["llama", "t5", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gpt2", "gemma3_text", "bart"))]
)
def test_requests_of_many_tasks_get_what_they_get_alone(
    family: str, tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    backbone = load_backbone(str(tiny_folders[family]), name=family, dtype="float32")
    for name, settings in METHODS.items():
        make_bundle(backbone, tmp_path / name, **settings)
    with running_engine(backbone, tmp_path, max_rows=6) as engine:
        bundles = {bundle.name: bundle for bundle in engine._store.bundles()}
        asked = [
            (name, ask(engine, new_request(backbone, bundles.get(name), source)))
            for source in SOURCES
            for name in (*METHODS, "base")
        ]
        answers = [(name, answer.wait()) for name, answer in asked]
        assert engine.status().num_running == 0
    assert set(bundles) == set(METHODS)
    for name, answer in answers:
        folder = None if name == "base" else tmp_path / name
        expected = logprobs_alone(backbone, folder, answer.request, answer.ids)
        assert answer.logprobs == pytest.approx(expected, abs=2e-4), name
        assert answer.finish is not None
        assert answer.finish.num_new_tokens == len(answer.ids) <= answer.request.sampling.max_new_tokens


@pytest.fixture
def base(tiny_folders: dict[str, Path]) -> Backbone:
    return load_backbone(str(tiny_folders["llama"]), name="llama", dtype="float32")


def test_a_preempted_request_gets_what_it_would_have_got(base: Backbone, tmp_path: Path) -> None:
    make_bundle(base, tmp_path / "task", seed=2)
    with running_engine(base, tmp_path, max_rows=2, patience_s=0.0) as engine:
        bundle = engine._store.find("task")
        greedy = [
            ask(engine, new_request(base, bundle, source, max_new_tokens=30, client="greedy", stop_ids=()))
            for source in SOURCES
        ]
        modest = [ask(engine, new_request(base, None, source, client="modest")) for source in SOURCES]
        answers = [answer.wait() for answer in (*greedy, *modest)]
    for answer in answers:
        folder = None if answer.request.version is None else tmp_path / "task"
        expected = logprobs_alone(base, folder, answer.request, answer.ids)
        assert answer.logprobs == pytest.approx(expected, abs=2e-4)


def test_sampled_tokens_do_not_depend_on_who_runs_beside(base: Backbone, tmp_path: Path) -> None:
    make_bundle(base, tmp_path / "task", seed=2)
    sampling: dict[str, Any] = {"temperature": 1.0, "seed": 11, "max_new_tokens": 20}
    with running_engine(base, tmp_path) as engine:
        bundle = engine._store.find("task")
        alone = ask(engine, new_request(base, bundle, "the cat", **sampling)).wait()
        crowd = [ask(engine, new_request(base, None, source)) for source in SOURCES]
        together = ask(engine, new_request(base, bundle, "the cat", **sampling)).wait()
        for one in crowd:
            one.wait()
    assert together.ids == alone.ids
    assert len(alone.ids) > 1


def test_a_cancelled_request_frees_its_row_and_its_version(base: Backbone, tmp_path: Path) -> None:
    make_bundle(base, tmp_path / "task")
    with running_engine(base, tmp_path, max_rows=1) as engine:
        bundle = engine._store.find("task")
        endless = ask(engine, new_request(base, bundle, "x", max_new_tokens=40, stop_ids=()))
        waiting = ask(engine, new_request(base, bundle, "y", max_new_tokens=40, stop_ids=()))
        for answer in (endless, waiting):
            engine.cancel(answer.request.request_id)
        engine.cancel("unknown")
        for answer in (endless, waiting):
            finish = answer.wait().finish
            assert finish is not None
            assert finish.reason == "cancelled"
        assert ask(engine, new_request(base, bundle, "z")).wait().ids
        assert engine._store._versions[bundle.version].num_holders == 0
        assert engine.status().text_bytes == 0


def test_a_late_request_is_given_up(base: Backbone, tmp_path: Path) -> None:
    with running_engine(base, tmp_path) as engine:
        late = ask(engine, new_request(base, None, "x", max_new_tokens=1000, deadline_s=time.monotonic(), stop_ids=()))
        finish = late.wait().finish
        assert finish is not None
        assert finish.reason == "deadline"


@pytest.mark.parametrize("family", [pytest.param("llama", marks=pytest.mark.slow), "bart"])
def test_attention_on_the_prefix_is_that_of_an_inspection(
    family: str, tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    base = load_backbone(str(tiny_folders[family]), name=family, dtype="float32")
    make_bundle(base, tmp_path / "task", seed=3)
    make_bundle(base, tmp_path / "lora", "lora")
    with running_engine(base, tmp_path) as engine:
        task, lora = engine._store.find("task"), engine._store.find("lora")
        request = new_request(base, task, "a pub in the city")
        busy = ask(engine, new_request(base, lora, "x"))
        found = engine.attention_on_prefix(task.version, request.prompt_ids)
        with pytest.raises(RequestError, match="must be a prefix"):
            engine.attention_on_prefix(lora.version, request.prompt_ids)
        assert busy.wait().ids
        assert all(version.num_holders == 0 for version in engine._store._versions.values())
    adaptation = load_bundle(tmp_path / "task", base)
    inputs = prompt_batch([list(request.prompt_ids)], base.padding(task.prompter))
    masses = prefix_mass(base, adaptation.method.condition(inputs))
    base.slots.clear()
    for site, layers in masses.items():
        expected = [float(mass.weights.sum() / mass.weights.shape[0] / mass.num_queries) for mass in layers if mass]
        assert found[site] == pytest.approx(expected, abs=1e-6)
        assert all(0.01 < share < 1 for share in found[site])


def test_a_stop_text_ends_the_text(base: Backbone, tmp_path: Path) -> None:
    with running_engine(base, tmp_path) as engine:
        whole = ask(engine, new_request(base, None, "x", max_new_tokens=20, stop_ids=())).wait()
        stop = whole.text[3:5]
        stopped = ask(engine, new_request(base, None, "x", max_new_tokens=20, stop_ids=(), stop=(stop,))).wait()

    assert stopped.text == whole.text[: whole.text.index(stop)]
    assert stopped.finish is not None
    assert stopped.finish.reason == "stop"


def test_a_request_that_could_never_run_is_refused_at_once(base: Backbone, tmp_path: Path) -> None:
    make_bundle(base, tmp_path / "task")
    with running_engine(base, tmp_path, max_text_bytes=10**6) as engine:
        bundle = engine._store.find("task")
        for request in (
            new_request(base, bundle, "x", max_new_tokens=10**6),
            new_request(base, bundle, "x", max_new_tokens=0),
            dataclasses.replace(new_request(base, bundle, "x"), prompt_ids=()),
            dataclasses.replace(new_request(base, bundle, "x"), version="0" * 16),
        ):
            with pytest.raises(RequestError):
                ask(engine, request)
        assert engine._store._versions[bundle.version].num_holders == 0


def test_a_damaged_bundle_ends_its_own_requests_only(base: Backbone, tmp_path: Path) -> None:
    make_bundle(base, tmp_path / "good", seed=1)
    make_bundle(base, tmp_path / "bad", seed=2)
    with running_engine(base, tmp_path) as engine:
        good, bad = engine._store.find("good"), engine._store.find("bad")
        content = (tmp_path / "bad" / "tensors.safetensors").read_bytes()
        (tmp_path / "bad" / "tensors.safetensors").write_bytes(content[:-4] + b"\0\0\1\0")
        with pytest.raises(BundleError, match="tensors_sha256"):
            ask(engine, new_request(base, bad, "x"))
        assert ask(engine, new_request(base, good, "x")).wait().ids


def test_a_failed_round_ends_every_request_with_an_error(
    base: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    with pytest.raises(AssertionError, match="out of memory"), running_engine(base, tmp_path) as engine:
        monkeypatch.setattr(engine._groups, "step", explode)
        answers = [ask(engine, new_request(base, None, source)) for source in SOURCES]
        for answer in answers:
            finish = answer.wait().finish
            assert finish is not None
            assert (finish.reason, finish.message) == ("error", "The engine failed.")
        engine._thread.join(10)  # type: ignore[union-attr]
        assert not engine.is_alive
        with pytest.raises(RequestError, match="has stopped"):
            ask(engine, new_request(base, None, "x"))


@pytest.mark.slow
def test_a_storm_of_requests_reloads_and_cancellations_leaves_nothing_behind(base: Backbone, tmp_path: Path) -> None:
    draw = random.Random(0)
    folders: dict[str, Path] = {}
    kept = tmp_path / "kept"

    def replace(name: str, seed: int) -> None:
        shutil.rmtree(tmp_path / "served" / name, ignore_errors=True)
        make_bundle(base_for_training, kept / f"{name}-{seed}", seed=seed)
        shutil.copytree(kept / f"{name}-{seed}", tmp_path / "served" / name)

    base_for_training = load_backbone(base.path, name="llama", dtype="float32")
    names = [f"task{index}" for index in range(6)]
    for index, name in enumerate(names):
        replace(name, index)
    with running_engine(base, tmp_path / "served", max_prefix_bytes=15_000, max_rows=5, patience_s=0.01) as engine:
        store, asked, seed = engine._store, [], 10
        for turn in range(300):
            name = draw.choice(names)
            bundle = store.find(name)
            folders.setdefault(bundle.version, kept / f"{name}-{bundle.num_rows - 2}")
            request = new_request(
                base, bundle, draw.choice(SOURCES), max_new_tokens=draw.randint(1, 12), client=str(turn % 3)
            )
            asked.append((ask(engine, request), draw.random() < 0.1))
            if asked[-1][1]:
                engine.cancel(request.request_id)
            if turn % 60 == 59:
                seed += 1
                replace(name, seed)
                store.rescan()
        answers = [(answer.wait(), is_cancelled) for answer, is_cancelled in asked]
        status = store.status()
        assert status.num_evictions > 5
        assert engine.status().text_bytes == 0
        assert all(version.num_holders == 0 for version in store._versions.values())
    for answer, is_cancelled in answers:
        assert answer.finish is not None
        assert answer.finish.reason in ("stop", "length", "cancelled")
        assert is_cancelled or answer.finish.reason != "cancelled"
        if answer.ids:
            folder = folders[str(answer.request.version)]
            expected = logprobs_alone(base_for_training, folder, answer.request, answer.ids)
            assert answer.logprobs == pytest.approx(expected, abs=2e-4)
