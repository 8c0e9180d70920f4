import os
import signal
from collections.abc import Callable
from pathlib import Path
from signal import SIGINT, SIGTERM
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from support.tiny_runs import TinyRuns
from torch import Tensor

from ptl_prefix.artifacts.event_log import read_events
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import read_record
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.training.module import AdaptationModule
from ptl_prefix.training.train import train


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def loaded(checkpoint: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(checkpoint, weights_only=True)
    return content


def at_batch(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], None]) -> None:
    """Do something inside the training step of a batch, counted from 1."""
    usual = AdaptationModule.training_step

    def step(self: AdaptationModule, batch: ModelInputs, batch_idx: int) -> Tensor:
        if batch_idx + 1 == number:
            act()
        return usual(self, batch, batch_idx)

    monkeypatch.setattr(AdaptationModule, "training_step", step)


@pytest.fixture
def given_losses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Validation losses that a run shall have, one after the other."""
    losses: list[float] = []

    def end(self: AdaptationModule) -> None:
        self._validation.take()
        self.log("val/loss", torch.tensor(losses.pop(0), dtype=torch.float64))

    monkeypatch.setattr(AdaptationModule, "on_validation_epoch_end", end)
    return losses


@pytest.mark.parametrize(
    ("losses", "best"),
    [([3.0, 2.0, 2.5], 4), ([3.0, 2.0, 1.0], 6), ([1.0, 2.0, 3.0], 2), ([2.0, 2.0, 2.0], 2)],
)
def test_best_is_the_first_with_the_least_loss_and_last_is_the_newest(
    tiny_runs: TinyRuns, folder: RunFolder, given_losses: list[float], losses: list[float], best: int
) -> None:
    given_losses += losses

    record = train(tiny_runs.plan(trainer__max_steps=6, trainer__val_check_interval=2), folder).record

    assert loaded(folder.best)["global_step"] == best
    assert loaded(folder.last)["global_step"] == 6
    assert record.metrics["val/loss"] == min(losses)
    assert loaded(folder.last)["callbacks"]["Checkpoints"]["loss"] == losses[-1]
    assert loaded(folder.best)["callbacks"]["Checkpoints"]["loss"] == min(losses)


def test_a_checkpoint_holds_the_trainable_parameters_alone(tiny_runs: TinyRuns, folder: RunFolder) -> None:
    plan = tiny_runs.plan()

    train(plan, folder)

    content = loaded(folder.last)
    assert content["state_dict"].keys() == plan.method.trainable_parameters().keys()
    assert {"optimizer_states", "lr_schedulers", "loops", "callbacks"} <= content.keys()
    trained_bytes = 4 * plan.method.num_trainable
    # The parameters and Adam's two moments; the random state is some kilobytes.
    assert folder.last.stat().st_size < 3 * trained_bytes + 50_000
    assert folder.last.stat().st_size < tiny_runs.backbone_folder.joinpath("model.safetensors").stat().st_size / 5


@pytest.mark.parametrize("links", [True, False])
def test_the_newest_checkpoints_are_kept_under_their_steps(
    tiny_runs: TinyRuns, folder: RunFolder, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))

    train(tiny_runs.plan(trainer__max_steps=10, trainer__val_check_interval=2, training__keep_last=3), folder)

    names = sorted(path.name for path in folder.checkpoints.iterdir())
    assert names == ["best.ckpt", "last.ckpt", "step-6.ckpt", "step-8.ckpt"]
    assert [loaded(folder.kept(step))["global_step"] for step in folder.kept_steps()] == [6, 8]
    first, second = (loaded(folder.kept(step))["state_dict"] for step in (6, 8))
    assert not all(torch.equal(first[name], tensor) for name, tensor in second.items())


def test_checkpoints_are_renamed_inside_their_own_folder(
    tiny_runs: TinyRuns, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    renamed = []
    usual = os.replace

    def replace(source: Path, target: Path) -> None:
        renamed.append((Path(source).parent, Path(target)))
        usual(source, target)

    monkeypatch.setattr(os, "replace", replace)

    train(tiny_runs.plan(trainer__max_steps=2), folder)

    in_there = [(source, target) for source, target in renamed if target.suffix == ".ckpt"]
    assert in_there == [(folder.checkpoints, folder.best), (folder.checkpoints, folder.last)]


@pytest.mark.parametrize("written", [0, 100])
def test_a_checkpoint_that_fails_half_way_leaves_the_old_one(
    tiny_runs: TinyRuns, folder: RunFolder, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    usual = pl.Trainer.save_checkpoint

    def save(self: pl.Trainer, path: Path) -> None:
        if self.global_step == 4:
            Path(path).write_bytes(b"x" * written)
            raise OSError("the disk is full")
        usual(self, path)

    monkeypatch.setattr(pl.Trainer, "save_checkpoint", save)

    with pytest.raises(OSError, match="the disk is full"):
        train(tiny_runs.plan(trainer__max_steps=6, trainer__val_check_interval=2), folder)

    assert loaded(folder.last)["global_step"] == loaded(folder.best)["global_step"] == 2


@pytest.mark.parametrize("number", [SIGINT, SIGTERM])
@pytest.mark.parametrize("batch", [5, 6, 7, 8])
def test_a_stop_waits_for_the_whole_accumulation_window(
    tiny_runs: TinyRuns, folder: RunFolder, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, batch: int
) -> None:
    at_batch(monkeypatch, batch, lambda: signal.raise_signal(number))

    outcome = train(tiny_runs.plan(trainer__accumulate_grad_batches=4, trainer__val_check_interval=100), folder)

    assert outcome.signal == number.name
    content = loaded(folder.last)
    assert content["global_step"] == 2
    assert content["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["processed"] == 8
    assert content["callbacks"]["Checkpoints"]["loss"] is None


def test_a_stopped_run_has_this_status_in_record_and_log(
    tiny_runs: TinyRuns, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_batch(monkeypatch, 2, lambda: signal.raise_signal(SIGTERM))

    outcome = train(tiny_runs.plan(), folder)

    record = read_record(folder.record)
    assert (record.status, record.cost.steps) == ("stopped", 2)
    assert record == outcome.record
    assert "val/loss" not in record.metrics
    assert read_events(folder.events)[-1]["kind"] == "stopped"
    assert not folder.bundle.exists()


@pytest.mark.parametrize("number", [SIGINT, SIGTERM])
def test_a_validation_that_is_due_at_the_stop_still_happens(
    tiny_runs: TinyRuns, folder: RunFolder, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    at_batch(monkeypatch, 3, lambda: signal.raise_signal(number))

    outcome = train(tiny_runs.plan(trainer__val_check_interval=3), folder)

    (validation,) = (event for event in read_events(folder.events) if event["kind"] == "validation")
    assert outcome.signal == number.name
    assert validation["step"] == 3
    assert loaded(folder.last)["callbacks"]["Checkpoints"]["loss"] == validation["val/loss"]


def test_a_stop_in_the_last_step_leaves_nothing_but_the_evaluation_to_do(
    tiny_runs: TinyRuns, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_batch(monkeypatch, 6, lambda: signal.raise_signal(SIGINT))

    assert train(tiny_runs.plan(), folder).record.status == "stopped"
    assert loaded(folder.last)["callbacks"]["Checkpoints"]["training_ended"]


def test_a_second_ctrl_c_interrupts_at_once(
    tiny_runs: TinyRuns, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def press_twice() -> None:
        signal.raise_signal(SIGINT)
        signal.raise_signal(SIGINT)

    at_batch(monkeypatch, 5, press_twice)

    outcome = train(tiny_runs.plan(trainer__accumulate_grad_batches=2, trainer__val_check_interval=4), folder)

    assert outcome.signal == "SIGINT"
    assert outcome.record.status == "stopped"
    assert loaded(folder.last)["global_step"] == 2, "the checkpoint of the validation before"


@pytest.mark.parametrize("moment", ["train.load_run_inputs", "training_run.mean_loss", "training_run.export_bundle"])
def test_before_and_after_training_a_stop_takes_effect_at_once(
    tiny_runs: TinyRuns, folder: RunFolder, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    monkeypatch.setattr(f"ptl_prefix.training.{moment}", lambda *_, **__: signal.raise_signal(SIGTERM))

    outcome = train(tiny_runs.plan(), folder)

    assert outcome.signal == "SIGTERM"
    assert read_record(folder.record).status == "stopped"


def test_the_callers_signal_handlers_are_restored(tiny_runs: TinyRuns, folder: RunFolder) -> None:
    usual = [signal.getsignal(number) for number in (SIGINT, SIGTERM)]

    train(tiny_runs.plan(trainer__max_steps=1), folder)

    assert [signal.getsignal(number) for number in (SIGINT, SIGTERM)] == usual
