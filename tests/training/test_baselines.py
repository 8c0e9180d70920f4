"""What prefix-tuning is compared with goes the whole way too: a dry run, training, being killed, a bundle, and text."""

from pathlib import Path
from typing import Any

import pytest
import torch
from support.method_nodes import method_node
from support.same_runs import assert_same_run
from support.tiny_runs import Family, TinyRuns
from support.toy_batches import EQUAL, text_logits, unpadded
from torch.testing import assert_close

from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.backbones.spec import load_backbone
from ptl_prefix.commands.config.build_plan import build_plan
from ptl_prefix.methods.restore import load_bundle
from ptl_prefix.training.dry_run import estimate
from ptl_prefix.training.module import AdaptationModule
from ptl_prefix.training.plan import Plan
from ptl_prefix.training.train import train

METHODS: dict[str, dict[str, Any]] = {
    "prompt_tuning": {"prompt_length": 6},
    "adapter": {"bottleneck_size": 5},
    "lora": {"match_parameters": 1000},
    "full_finetuning": {},
    "prefix_lora": {"parts": {"first": {"prefix_length": 3, "reparam_hidden_size": 16}}},
}
LRS = {"full_finetuning": 0.005}
LIMIT = 160
"""Positions of the tiny BART."""


@pytest.fixture(
    scope="module", params=["gpt2", *(pytest.param(family, marks=pytest.mark.slow) for family in ("bart", "t5"))]
)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TinyRuns:
    family: Family = request.param
    return TinyRuns(tmp_path_factory.mktemp(family), family)


def plan_with(tiny: TinyRuns, method: str, method_settings: dict[str, Any] | None = None, **changes: Any) -> Plan:
    """A short run of another method."""
    config = tiny.config(**{"trainer__max_steps": 12, "optimizer__lr": LRS.get(method, 0.05), **changes})
    config["method"] = method_node(method, **{**METHODS[method], **(method_settings or {})})
    return build_plan(config)


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_run_goes_on_and_its_bundle_writes_what_the_run_wrote(
    tiny: TinyRuns, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, folder = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "run")
    expected = train(plan_with(tiny, method), whole)
    usual = AdaptationModule.training_step

    def step(self: AdaptationModule, batch: Any, batch_idx: int) -> Any:
        if self.global_step == 7:
            raise KeyboardInterrupt
        return usual(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(AdaptationModule, "training_step", step)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            train(plan_with(tiny, method), folder)
    torch.rand(7)  # another process would have drawn other numbers, too

    outcome = train(plan_with(tiny, method), folder, resume=True)

    assert_same_run(folder, whole)
    assert outcome.record.metrics["val/loss"] < outcome.record.metrics["val/loss_before"] - 0.02
    adaptation = load_bundle(folder.bundle, tiny.backbone())
    assert adaptation.generate([scored.source for scored in expected.adapted]) == [
        scored.hypothesis for scored in expected.adapted
    ]


@pytest.mark.parametrize("method", METHODS)
def test_a_dry_run_counts_what_a_run_trains(tiny: TinyRuns, method: str) -> None:
    plan, backbone = plan_with(tiny, method), tiny.backbone()

    estimated = estimate(plan_with(tiny, method))

    assert estimated.num_trainable == plan.method.attach(backbone).num_trainable
    assert estimated.num_stored == plan.method.num_stored
    assert estimated.activation_bytes > 0


@pytest.mark.parametrize("method", METHODS)
def test_problems_are_none(tiny: TinyRuns, method: str) -> None:
    assert plan_with(tiny, method).problems() == []


def test_a_prompt_takes_room_from_what_an_encoder_reads_and_from_nothing_else(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    tiny = TinyRuns(tmp_path_factory.mktemp("bart"), "bart")
    backbone = tiny.backbone()
    most = LIMIT - 1  # one position is left, for a source of one token

    plan = plan_with(tiny, "prompt_tuning", {"prompt_length": most}, generation__max_new_tokens=LIMIT - 1)
    prompter = backbone.prompter(plan.task.prompt)

    assert plan.method.incompatibilities(backbone) == []
    (problem,) = plan.problems()
    assert (
        f"must hold a prompt beside the method, which leaves 1, but that takes at least {_fixed(prompter)}" in problem
    )

    room = _fixed(prompter) + 3
    plan = plan_with(tiny, "prompt_tuning", {"prompt_length": LIMIT - room}, generation__max_new_tokens=LIMIT - 1)
    assert plan.problems() == []
    usual = plan_with(tiny, "prompt_tuning", {"prompt_length": 1}).encoded("train", backbone, prompter)
    encoded = plan.encoded("train", backbone, prompter)
    assert int(encoded.num_source_ids.max()) == room
    assert (encoded.lengths - encoded.num_source_ids).tolist() == (usual.lengths - usual.num_source_ids).tolist()


def _fixed(prompter: Any) -> int:
    number: int = prompter.num_fixed_tokens
    return number


def test_full_fine_tuning_leaves_a_model_that_transformers_opens(tiny: TinyRuns, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    train(plan_with(tiny, "full_finetuning", trainer__max_steps=3), folder)
    backbone = tiny.backbone()
    inputs = unpadded(backbone=backbone)
    bare = text_logits(backbone, inputs)

    opened = load_backbone(str(folder.model), dtype="float32", device="cpu")

    method = load_bundle(folder.bundle, backbone).method
    expected = text_logits(backbone, method.condition(inputs))
    assert_close(text_logits(opened, inputs), expected, **EQUAL)
    assert any((a - b).abs().max() > 1e-2 for a, b in zip(expected, bare, strict=True))


def test_other_methods_leave_none(tiny: TinyRuns, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")

    train(plan_with(tiny, "lora", trainer__max_steps=3), folder)

    assert folder.bundle.is_dir()
    assert not folder.model.exists()


def test_a_resumed_run_writes_its_model_over_that_of_a_run_killed_at_its_very_end(
    tiny: TinyRuns, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    train(plan_with(tiny, "full_finetuning", trainer__max_steps=3), folder)
    folder.record.unlink()
    before = (folder.model / "model.safetensors").read_bytes()

    outcome = train(plan_with(tiny, "full_finetuning", trainer__max_steps=3), folder, resume=True)

    assert outcome.record.status == "finished"
    assert (folder.model / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("method", "asked", "mode"),
    [
        ("full_finetuning", None, "train"),
        ("adapter", None, "train"),
        ("lora", None, "eval"),
        ("prompt_tuning", None, "eval"),
        ("prefix_lora", None, "eval"),
        ("full_finetuning", "eval", "eval"),
        ("prompt_tuning", "train", "train"),
    ],
)
def test_the_backbones_mode_is_the_methods_where_a_run_chooses_none(
    tiny: TinyRuns, method: str, asked: str | None, mode: str
) -> None:
    plan = plan_with(tiny, method, backbone__base_mode=asked)

    assert plan.backbone.base_mode == mode
    assert plan.config["backbone"]["base_mode"] == mode


def test_a_plan_states_the_size_that_a_budget_chose(tiny: TinyRuns) -> None:
    plan = plan_with(tiny, "prefix_lora", {"parts": {"second": {"match_parameters": 1000}}})

    lora = plan.config["method"]["parts"]["second"]
    again = build_plan(plan.config)
    assert lora["rank"] == plan.method.parts["second"].rank != method_node("lora")["rank"]  # type: ignore[union-attr]
    assert lora["match_parameters"] == 1000
    assert again.config == plan.config
    (note,) = plan.method.parts["second"].notes  # type: ignore[union-attr,misc]
    assert "match_parameters" in str(note)
