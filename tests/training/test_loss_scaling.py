"""Runs in float16 whose loss is scaled, on the CPU's own scaler; and on a GPU where there is one."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from support import rank_bodies
from support.among_ranks import among_ranks
from support.method_nodes import method_node
from support.same_runs import assert_same_run
from support.tiny_runs import Family, TinyRuns
from torch import Tensor
from torch.testing import assert_close

from ptl_prefix.artifacts.event_log import read_events
from ptl_prefix.artifacts.rebuilt_record import rebuild_record
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import read_record
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.commands.config.catalog import choices
from ptl_prefix.training import loss_scaling
from ptl_prefix.training.module import AdaptationModule
from ptl_prefix.training.train import train
from ptl_prefix.training.training_run import Outcome

HALF: dict[str, Any] = {"trainer__precision": "16-mixed", "trainer__max_steps": 12}
SETTINGS: dict[str, dict[str, Any]] = {
    "adapter": {"bottleneck_size": 5},
    "prefix_lora": {"parts": {"first": {"prefix_length": 3, "reparam_hidden_size": 16}, "second": {"dropout": 0.0}}},
    "prefix_tuning": {"prefix_length": 3, "reparam_hidden_size": 16},
    "prompt_tuning": {"prompt_length": 4},
}
ON_EVERY_FAMILY = ("full_finetuning", "lora", "prefix_tuning")
"""One method of each kind; the contracts train all of them on other families in bfloat16."""


PAIRS = [(one.name, "gpt2") for one in choices("method")] + [
    (name, family) for name in ON_EVERY_FAMILY for family in ("llama", "bart", "t5")
]
CASES = [pytest.param(*pair, marks=() if pair == ("prefix_tuning", "gpt2") else pytest.mark.slow) for pair in PAIRS]


@pytest.fixture
def from_far_too_large_a_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first seven steps or so are skipped."""
    monkeypatch.setattr(loss_scaling, "_INITIAL_SCALE", 2.0**20)


def points(folder: RunFolder) -> list[dict[str, Any]]:
    """What was logged of each step."""
    return [event for event in read_events(folder.events) if event["kind"] == "train"]


@pytest.mark.usefixtures("from_far_too_large_a_scale")
class TestARunThatSkips:
    @pytest.fixture
    def run(self, tiny_runs: TinyRuns, tmp_path: Path) -> tuple[Outcome, RunFolder]:
        folder = RunFolder(tmp_path / "run")
        return train(tiny_runs.plan(**HALF), folder), folder

    def test_counts_its_skipped_steps_among_its_steps(self, run: tuple[Outcome, RunFolder]) -> None:
        outcome, folder = run
        told = points(folder)
        skipped = outcome.record.cost.skipped_steps

        assert outcome.record.cost.steps == len(told) == 12
        assert 3 < skipped < 12
        assert [point["skipped_steps"] for point in told] == [*range(1, skipped), *[skipped] * (13 - skipped)]
        assert [point["loss_scale"] for point in told] == [2.0 ** (20 - point["skipped_steps"]) for point in told]
        assert rebuild_record(folder).cost.skipped_steps == skipped

    def test_logs_the_gradients_of_the_others_as_they_are_without_a_scale(
        self, run: tuple[Outcome, RunFolder], tiny_runs: TinyRuns, tmp_path: Path
    ) -> None:
        outcome, folder = run
        exact = RunFolder(tmp_path / "exact")
        train(tiny_runs.plan(trainer__max_steps=12), exact)
        skipped = outcome.record.cost.skipped_steps

        assert ["train/grad_norm" in point for point in points(folder)] == [False] * skipped + [True] * (12 - skipped)
        # Until then nothing has been trained: the same rows give the same loss in the first step of both.
        assert points(folder)[0]["train/loss"] == pytest.approx(points(exact)[0]["train/loss"], rel=1e-3)
        assert points(folder)[skipped]["lr"] == points(exact)[0]["lr"]
        assert 0.1 < points(folder)[skipped]["train/grad_norm"] / points(exact)[0]["train/grad_norm"] < 10

    @pytest.mark.parametrize("step", [2, 8])
    def test_goes_on_after_a_stop_to_the_same_numbers(
        self,
        run: tuple[Outcome, RunFolder],
        tiny_runs: TinyRuns,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        step: int,
    ) -> None:
        outcome, whole = run
        folder = RunFolder(tmp_path / "stopped")
        usual = AdaptationModule.training_step

        def stopping(self: AdaptationModule, batch: ModelInputs, batch_idx: int) -> Tensor:
            if self.global_step == step - 1:
                signal.raise_signal(signal.SIGTERM)
            return usual(self, batch, batch_idx)

        with monkeypatch.context() as patch:
            patch.setattr(AdaptationModule, "training_step", stopping)
            stopped = train(tiny_runs.plan(**HALF), folder)
        assert (stopped.signal, stopped.record.cost.steps) == ("SIGTERM", step)
        monkeypatch.setattr(loss_scaling, "_INITIAL_SCALE", 1.0)  # what the checkpoint says is what counts

        resumed = train(tiny_runs.plan(**HALF), folder, resume=True)

        assert resumed.record.cost.skipped_steps == outcome.record.cost.skipped_steps
        assert_same_run(folder, whole)
        scalers = [torch.load(one.last, weights_only=True)["LossScaling"] for one in (folder, whole)]
        assert scalers[0] == scalers[1]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_where_the_gradients_of_one_rank_overflow_all_skip_the_step(
    tiny_runs: TinyRuns, tmp_path: Path, strategy: str
) -> None:
    folder = RunFolder(tmp_path / "run")
    changes = {**HALF, "trainer__devices": 2, "trainer__strategy": strategy, "data__batch_size": 2}

    first, second = among_ranks(2, rank_bodies.trained_with_failure, tiny_runs, folder.path, changes, 1, 4, "overflow")

    assert_close(first["state"], second["state"], rtol=0, atol=0)
    assert [point["skipped_steps"] for point in points(folder)] == [0] * 4 + [1] * 8
    assert read_record(folder.record).cost.skipped_steps == 1


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("method", "family"), CASES)
def test_every_method_trains_float32_numbers(tmp_path: Path, family: Family, method: str, dtype: str) -> None:
    node = method_node(method, **SETTINGS.get(method, {}))
    changes = {**HALF, "backbone__dtype": dtype, "optimizer__lr": 0.001, "method": node}
    plan = TinyRuns(tmp_path / "tiny", family).plan(**changes)

    folder = RunFolder(tmp_path / "run")

    outcome = train(plan, folder)

    assert outcome.record.cost.skipped_steps < 6
    assert {parameter.dtype for parameter in plan.method.trainable_parameters().values()} == {torch.float32}
    validations = [event["val/loss"] for event in read_events(folder.events) if event["kind"] == "validation"]
    assert validations[-1] < validations[0]


def test_bfloat16_needs_no_scale(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    plan = tiny_runs.plan(trainer__precision="bf16-mixed")
    assert plan.problems() == []

    outcome = train(plan, folder)

    assert outcome.record.cost.skipped_steps == 0
    assert all("loss_scale" not in point and "train/grad_norm" in point for point in points(folder))
    assert {parameter.dtype for parameter in plan.method.trainable_parameters().values()} == {torch.float32}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_gpu_trains_in_float16_what_it_trains_in_float32(tiny_runs: TinyRuns, tmp_path: Path, dtype: str) -> None:
    on_gpu = {"backbone__device": "cuda", "trainer__max_steps": 12, "optimizer__lr": 0.001}
    half, exact = (RunFolder(tmp_path / name) for name in ("half", "exact"))

    plan = tiny_runs.plan(**{**HALF, **on_gpu, "backbone__dtype": dtype})
    assert plan.problems() == []
    train(plan, half)
    train(tiny_runs.plan(**on_gpu), exact)

    assert {parameter.dtype for parameter in plan.method.trainable_parameters().values()} == {torch.float32}
    losses = [[point["train/loss"] for point in points(folder)] for folder in (half, exact)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
