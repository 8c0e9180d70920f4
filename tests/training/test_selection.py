"""The best checkpoint by a metric of generated texts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from support.among_ranks import among_ranks
from support.no_task import NoTask
from support.tiny_runs import TinyRuns

from ptl_prefix.artifacts.event_log import read_events, validation_losses
from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.artifacts.rebuilt_record import rebuild_record
from ptl_prefix.artifacts.run_config import write_config
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import read_record
from ptl_prefix.errors import DataError
from ptl_prefix.evaluation.scoring import Scores
from ptl_prefix.training import selection
from ptl_prefix.training.selection import require_measurable
from ptl_prefix.training.settings import TrainingSettings, selection_problems
from ptl_prefix.training.train import train

BY_METRIC: dict[str, Any] = {
    "trainer__max_steps": 6,
    "trainer__val_check_interval": 2,
    "training__select_by": "val/exact_match",
    "training__select_examples": 5,
}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


@pytest.fixture
def given_values(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """Values that the metric shall have, one after the other; `None` for one that cannot be computed."""
    values: list[float | None] = []

    def score(predictions: Sequence[Prediction], names: Sequence[str]) -> Scores:
        (name,) = names
        if len({one.hypothesis for one in predictions} - {one.references[0] for one in predictions}) == 0:
            return Scores(values={name: 1.0})  # the references, before training
        value = values.pop(0)
        return Scores(unavailable={name: "no luck"}) if value is None else Scores(values={name: value})

    monkeypatch.setattr(selection, "score", score)
    return values


def events_of(folder: RunFolder, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_events(folder.events) if event["kind"] == kind]


@pytest.mark.parametrize(
    ("values", "best"),
    [
        ([0.1, 0.3, 0.2], 4),
        ([0.2, 0.2, 0.1], None),  # of two equal ones, that with the lower loss
        ([None, 0.0, None], 4),
        ([float("nan"), float("inf"), 0.1], 6),
    ],
)
def test_the_best_checkpoint_has_the_best_value(
    tiny_runs: TinyRuns, folder: RunFolder, given_values: list[float | None], values: list[float | None], best: int
) -> None:
    given_values += values

    record = train(tiny_runs.plan(**BY_METRIC), folder).record

    losses = dict(validation_losses(read_events(folder.events)))
    best = best or min((2, 4), key=lambda step: losses[step])
    assert torch.load(folder.best, weights_only=True)["global_step"] == best
    assert record.metrics["val/loss"] == losses[best], "the loss of the checkpoint that is exported"
    assert record.selection is not None
    assert (record.selection.step, record.selection.value) == (best, values[best // 2 - 1])
    assert record.selection.num_examples == 5
    assert [event.get("val/exact_match") for event in events_of(folder, "selection")] == [
        value if value in (0.0, 0.1, 0.2, 0.3) else None for value in values
    ]
    folder.record.unlink()
    write_config(folder, tiny_runs.config(**BY_METRIC))
    rebuilt = rebuild_record(folder)
    assert rebuilt.selection is not None and rebuilt.metrics["val/loss"] == losses[best]
    assert (rebuilt.selection.step, rebuilt.selection.value) == (best, record.selection.value)


def test_a_run_without_any_value_ends_with_the_lowest_loss_and_says_why(
    tiny_runs: TinyRuns, folder: RunFolder, given_values: list[float | None], capfd: pytest.CaptureFixture[str]
) -> None:
    given_values += [None, None, None]

    record = train(tiny_runs.plan(**BY_METRIC), folder).record

    losses = dict(validation_losses(read_events(folder.events)))
    assert record.metrics["val/loss"] == min(losses.values())
    assert record.selection is not None and record.selection.value is None
    assert "val/exact_match" not in record.metrics
    assert "val/exact_match of step 4 is skipped: no luck" in capfd.readouterr().err


def test_every_second_validation_and_the_last_one_decode(
    tiny_runs: TinyRuns, folder: RunFolder, given_values: list[float | None]
) -> None:
    given_values += [0.1, 0.2, 0.0]

    train(tiny_runs.plan(**BY_METRIC | {"training__select_every": 2, "trainer__max_steps": 10}), folder)

    assert [event["step"] for event in events_of(folder, "selection")] == [4, 8, 10]
    assert torch.load(folder.best, weights_only=True)["global_step"] == 8


def test_early_stopping_follows_the_metric(
    tiny_runs: TinyRuns, folder: RunFolder, given_values: list[float | None], capfd: pytest.CaptureFixture[str]
) -> None:
    given_values += [0.3, 0.4, None, 0.4, 0.2]
    patience = {"optimizer__early_stopping_patience": 2, "trainer__max_steps": 50}

    record = train(tiny_runs.plan(**BY_METRIC | patience), folder).record

    assert record.cost.steps == 10, "a value that is missing is not counted"
    assert "early stopping at step 10 of 50: val/exact_match has not risen by more than 0" in capfd.readouterr().err


@pytest.mark.parametrize("decoding", [{}, pytest.param({"generation__do_sample": True}, marks=pytest.mark.slow)])
def test_decoding_does_not_change_the_training(
    dropping_runs: TinyRuns, tmp_path: Path, decoding: dict[str, object]
) -> None:
    states = []
    for select_by in ("val/loss", "val/exact_match"):
        folder = RunFolder(tmp_path / select_by)
        dropout = {"method__prefix_dropout": 0.3, "backbone__base_mode": "train"}
        train(dropping_runs.plan(**BY_METRIC | {"training__select_by": select_by, **dropout, **decoding}), folder)
        states.append(torch.load(folder.last, weights_only=True)["state_dict"])

    assert all(torch.equal(states[1][name], tensor) for name, tensor in states[0].items())


class Scored(NoTask):
    name = "scored"
    metrics = ("bleu", "accuracy")


def test_a_metric_that_the_task_does_not_have_is_refused_with_those_that_it_has() -> None:
    assert selection_problems(TrainingSettings(select_by="val/bleu"), Scored()) == []
    (problem,) = selection_problems(TrainingSettings(select_by="test/bleu"), Scored())

    assert "`training.select_by` must be a metric of the validation split that the task scored has" in problem
    assert "(val/loss, val/bleu, val/accuracy), but is 'test/bleu'" in problem


def test_a_metric_that_the_inputs_do_not_fit_is_refused_before_training() -> None:
    row = {"example_id": "1", "source": "a", "targets": ["b", "c"], "values": [], "group": ""}

    with pytest.raises(DataError, match=r"`training.select_by` .* val/accuracy cannot be computed"):
        require_measurable(Scored(), "accuracy", [row])


@pytest.mark.slow
def test_two_ranks_choose_as_one_does(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    from support import rank_bodies

    from ptl_prefix.training.ranks import ONE_RANK

    changes = {**BY_METRIC, "training__select_by": "val/attribute_accuracy", "optimizer__lr": 0.01}
    one, two = RunFolder(tmp_path / "one"), RunFolder(tmp_path / "two")
    rank_bodies.trained(ONE_RANK, tiny_runs, one.path, {**changes, "data__batch_size": 8})
    first, second = among_ranks(2, rank_bodies.trained, tiny_runs, two.path, {**changes, "trainer__devices": 2})

    ours, theirs = read_record(two.record).selection, read_record(one.record).selection
    assert ours is not None and theirs is not None
    assert (ours.value, ours.step, ours.num_examples) == (theirs.value, theirs.step, theirs.num_examples)
    assert all(torch.equal(first["state"][name], tensor) for name, tensor in second["state"].items())
    assert [event["step"] for event in events_of(two, "selection")] == [2, 4, 6]
