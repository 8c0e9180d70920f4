"""Validations on a nested subset rank checkpoints; the best one is then measured on the whole split."""

from pathlib import Path
from typing import Any

import pytest
from support.tiny_runs import TinyRuns

from ptl_prefix.artifacts.event_log import ranking_losses, read_events, validation_losses
from ptl_prefix.artifacts.rebuilt_record import read_losses
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import RunRecord, read_record
from ptl_prefix.evaluation.loss import mean_loss
from ptl_prefix.training.export import load_trained_state
from ptl_prefix.training.run_inputs import load_run_inputs
from ptl_prefix.training.train import train

SUBSET: dict[str, Any] = {"training__validation_examples": 2, "trainer__val_check_interval": 2}


def trained(tiny_runs: TinyRuns, folder: Path, **changes: Any) -> tuple[RunRecord, RunFolder]:
    run = RunFolder(folder)
    train(tiny_runs.plan(**changes), run)
    return read_record(run.record), run


def test_the_loss_of_a_run_is_that_of_the_whole_split(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    record, folder = trained(tiny_runs, tmp_path / "run", **SUBSET)

    plan = tiny_runs.plan()
    inputs = load_run_inputs(plan)
    plan.method.attach(inputs.backbone)
    load_trained_state(plan.method, folder.best)
    whole = mean_loss(inputs.backbone, plan.method, inputs.validation)
    assert record.metrics["val/loss"] == pytest.approx(whole, abs=1e-6)
    events = read_events(folder.events)
    ranked = ranking_losses(events)
    assert [step for step, _ in ranked] == [2, 4, 6]
    assert record.ranking is not None
    assert record.ranking.loss == min(loss for _, loss in ranked) != pytest.approx(whole)
    assert (record.ranking.num_examples, record.ranking.num_in_split) == (2, 6)
    assert validation_losses(events) == [], "a loss of the subset is not called val/loss"
    assert "val/loss" not in read_losses(events), "nor in the record of a killed run"


def test_runs_of_other_seeds_are_ranked_on_the_same_examples(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    (first, _), (second, _) = (trained(tiny_runs, tmp_path / str(seed), seed=seed, **SUBSET) for seed in (0, 1))

    assert first.ranking is not None and second.ranking is not None
    assert first.ranking.examples_sha256 == second.ranking.examples_sha256
    assert first.ranking.loss != second.ranking.loss


def test_a_run_without_a_subset_says_nothing_of_one(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    record, folder = trained(tiny_runs, tmp_path / "run")

    assert record.ranking is None
    losses = ranking_losses(read_events(folder.events))
    assert losses == validation_losses(read_events(folder.events))
    assert record.metrics["val/loss"] == min(loss for _, loss in losses)


def test_the_losses_that_rank_are_of_the_same_examples() -> None:
    events = [
        {"kind": "validation", "step": 2, "val/subset_loss": 3.0},
        {"kind": "train", "step": 3},
        {"kind": "validation", "step": 4, "val/subset_loss": 2.5},
    ]

    assert ranking_losses(events) == [(2, 3.0), (4, 2.5)]
    assert ranking_losses([{"kind": "validation", "step": 2, "val/loss": 1.0}]) == [(2, 1.0)]
