"""Rows of several texts in a whole training: the same steps when packed, fewer tokens with shared sources."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.tiny_runs import TinyRuns

from ptl_prefix.artifacts.event_log import read_events
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import read_record
from ptl_prefix.settings import defaults_of
from ptl_prefix.training.run_inputs import load_run_inputs
from ptl_prefix.training.train import train


def losses(tiny_runs: TinyRuns, folder: Path, **changes: Any) -> dict[str, list[float]]:
    train(tiny_runs.plan(**changes), RunFolder(folder))
    events = read_events(RunFolder(folder).events)
    return {key: [event[key] for event in events if key in event] for key in ("train/loss", "val/loss")}


def test_a_packed_run_takes_the_same_steps(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    plain = losses(tiny_runs, tmp_path / "plain")

    packed = losses(tiny_runs, tmp_path / "packed", data__packing=True)

    assert packed["train/loss"] == pytest.approx(plain["train/loss"], rel=1e-4)
    assert packed["val/loss"] == pytest.approx(plain["val/loss"], rel=1e-4)


def many_targets(folder: Path) -> dict[str, Any]:
    """A task of 24 sources with three targets each."""
    file = folder / "pairs.jsonl"
    rows = [
        {
            "source": f"a town by the river, number {row}",
            "target": [f"{word} town {row}" for word in ("one", "a", "the")],
        }
        for row in range(24)
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    given = {"train_file": str(file), "validation_file": str(file), "test_file": str(file)}
    return {"_target_": "ptl_prefix.data.tasks.text_pairs.TextPairs", **defaults_of("task/text_pairs"), **given}


def test_shared_sources_take_fewer_tokens_for_an_epoch_of_the_same_targets(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    records = {}
    for shared in (False, True):
        folder = RunFolder(tmp_path / str(shared))
        epoch = {"trainer__max_steps": -1, "trainer__max_epochs": 1}
        train(tiny_runs.plan(task=many_targets(tmp_path), data__share_sources=shared, **epoch), folder)
        records[shared] = read_record(folder.record)

    assert records[True].cost.steps == 24  # of one source each: three targets, where a batch has four rows
    assert records[False].cost.steps == 18
    assert records[True].cost.tokens < 0.7 * records[False].cost.tokens
    assert records[True].metrics["val/loss"] < records[True].metrics["val/loss_before"] - 0.05


def test_validation_computes_a_prompt_once_where_a_row_can_hold_several_texts(tiny_runs: TinyRuns) -> None:
    shared = load_run_inputs(tiny_runs.plan())
    infix = load_run_inputs(tiny_runs.plan(method__position_law="infix"))

    assert all(batch.layout is not None for batch in shared.validation)
    assert all(batch.layout is None for batch in infix.validation)


@pytest.mark.parametrize("setting", ["packing", "share_sources"])
@pytest.mark.parametrize("case", ["encoder-decoder", "infix"])
def test_rows_of_one_text_are_refused_before_anything_loads(
    tmp_path: Path, tiny_runs: TinyRuns, setting: str, case: str
) -> None:
    runs = TinyRuns(tmp_path, "t5") if case == "encoder-decoder" else tiny_runs
    changes = {} if case == "encoder-decoder" else {"method__position_law": "infix"}

    problems = runs.plan(**changes, **{f"data__{setting}": True}).problems()

    assert len(problems) == 1
    assert f"`data.{setting}` must be false" in problems[0]
    assert case.split("-")[0] in problems[0]
    assert runs.plan(**changes).problems() == []
