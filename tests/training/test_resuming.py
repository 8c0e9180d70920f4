"""A run that is killed at any moment and goes on ends in the same numbers, bit by bit.

Killed here is an exception that nothing catches, in the same process; whole processes are killed by
`pipeline/test_killed_processes.py`.
"""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.same_runs import assert_same_run
from support.tiny_runs import TinyRuns

from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.settings import defaults_of
from ptl_prefix.training import checkpoints, training_run
from ptl_prefix.training import train as train_module
from ptl_prefix.training.module import AdaptationModule
from ptl_prefix.training.train import train
from ptl_prefix.training.training_run import Outcome

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"trainer__max_steps": 12},
    "accumulation and prefix dropout over three epochs": {
        "trainer__accumulate_grad_batches": 4,
        "trainer__val_check_interval": 8,
        "method__prefix_dropout": 0.3,
    },
    "dropout in the backbone, no reparametrisation": {
        "trainer__max_steps": 12,
        "backbone__base_mode": "train",
        "method__reparam": "none",
    },
    "LoRA with dropout, inside the backbone": {
        "trainer__max_steps": 12,
        "optimizer__lr": 0.005,
        "method": {"_target_": "ptl_prefix.methods.lora.LoRA", **defaults_of("method/lora"), "dropout": 0.3},
    },
    "early stopping": {
        "trainer__max_steps": 20,
        "optimizer__early_stopping_patience": 2,
        "optimizer__early_stopping_min_delta": 100.0,
        "trainer__val_check_interval": 5,
        "training__keep_last": 2,
    },
    "the best by a generated metric, at every second validation": {
        "trainer__max_steps": 12,
        "trainer__val_check_interval": 2,
        "training__select_by": "val/attribute_accuracy",
        "training__select_every": 2,
        "training__keep_last": 3,
        "generation__do_sample": True,
    },
}


class Killed(BaseException):
    """Nothing catches this, as nothing catches SIGKILL."""


Runner = Callable[[RunFolder, bool], Outcome]


QUICK = ("accumulation and prefix dropout over three epochs", "early stopping")
"""The settings in which most can go wrong; the others are tested with what takes long."""


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in SETTINGS]
)
def run(request: pytest.FixtureRequest, dropping_runs: TinyRuns) -> Runner:
    """Trains in a folder with one of the settings, or goes on there."""
    return lambda folder, resume: train(dropping_runs.plan(**SETTINGS[request.param]), folder, resume=resume)


@pytest.fixture(scope="module")
def whole(run: Runner, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The same run, never interrupted."""
    folder = RunFolder(tmp_path_factory.mktemp("whole") / "run")
    run(folder, False)
    return folder


def kill_at_call(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, number: int, *, after: bool = False) -> None:
    """Kill when a function is called for the n-th time, before or after it has done its work."""
    usual = getattr(owner, name)
    calls: Iterator[int] = iter(range(1, 10**6))

    def call(*arguments: Any, **settings: Any) -> Any:
        is_it = next(calls) == number
        if is_it and not after:
            raise Killed
        result = usual(*arguments, **settings)
        if is_it:
            raise Killed
        return result

    monkeypatch.setattr(owner, name, call)


MOMENTS: dict[str, tuple[Any, str, int, bool]] = {
    "before the first checkpoint": (AdaptationModule, "training_step", 2, False),
    "between two checkpoints": (AdaptationModule, "training_step", 11, False),
    "in a validation": (AdaptationModule, "validation_step", 4, False),
    "before a checkpoint": (checkpoints, "_save", 2, False),
    "between the first best and last": (checkpoints, "copy_checkpoint", 1, False),
    "between a later best and last": (checkpoints, "copy_checkpoint", 2, False),
    "after a checkpoint": (checkpoints, "_save", 2, True),
    "after the last validation": (training_run, "load_trained_state", 1, False),
    "before the bundle": (training_run, "export_bundle", 1, False),
    "before the record": (train_module.RunRecorder, "finish", 1, False),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_and_resumed_run_equals_an_uninterrupted_run(
    run: Runner, whole: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    folder = RunFolder(tmp_path / "run")
    owner, name, number, after = MOMENTS[moment]
    with monkeypatch.context() as patch:
        kill_at_call(patch, owner, name, number, after=after)
        try:
            run(folder, False)
        except Killed:
            torch.rand(7)  # another process would have drawn other numbers, too
        else:
            pytest.fail("the run was over before that moment")

    outcome = run(folder, True)

    assert outcome.record.status == "finished"
    assert folder.kept_steps() == whole.kept_steps()
    assert_same_run(folder, whole)


def test_a_stopped_and_resumed_run_equals_an_uninterrupted_run(
    run: Runner, whole: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path / "run")
    usual = AdaptationModule.training_step

    def step(self: AdaptationModule, batch: Any, batch_idx: int) -> Any:
        if batch_idx % 5 == 0:
            signal.raise_signal(signal.SIGTERM)
        return usual(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(AdaptationModule, "training_step", step)
        stops = [run(folder, False)]
        while len(stops) < 4 and stops[-1].signal:
            stops.append(run(folder, True))
    assert stops[0].signal == "SIGTERM"

    run(folder, True)

    assert_same_run(folder, whole)


def test_a_finished_run_that_is_resumed_only_evaluates_again(run: Runner, whole: RunFolder, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    run(folder, False)

    record = run(folder, True).record

    assert record.cost.steps == json.loads(whole.record.read_text())["cost"]["steps"]
    assert_same_run(folder, whole)
