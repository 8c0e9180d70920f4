"""The engine: each request gets what it would get alone, whatever runs beside it, joins, leaves or is preempted."""

from pathlib import Path

import pytest
from support.served_requests import ask, logprobs_alone, make_bundle, new_request, running_engine
from support.tiny_backbones import save_tiny_backbone

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.spec import load_backbone

SOURCES = ["the cat", "a pub in the city", "name : Wildwood , food : Italian", "x"]
METHODS = {
    "short": {"method": "prefix_tuning", "seed": 0},
    "long": {"method": "prefix_tuning", "seed": 5},
    "prompt": {"method": "prompt_tuning", "prompt_length": 3},
    "lora": {"method": "lora"},
    "ia3": {"method": "ia3"},
}


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3_text", "bart", "t5"])
def test_requests_of_many_tasks_get_what_they_get_alone(family: str, tiny_folders: dict[str, Path], tmp_path: Path) -> None:
    backbone = load_backbone(str(tiny_folders[family]), name=family, dtype="float32")
    for name, settings in METHODS.items():
        make_bundle(backbone, tmp_path / name, **settings)  # type: ignore[arg-type]
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
        assert answer.finish.num_new_tokens == len(answer.ids)
