import csv
from pathlib import Path
from typing import Any

import pytest
from support.sink_facts import make_facts

from ptl_prefix.errors import RunError
from ptl_prefix.tracking.csv_sink import CsvSink


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def opened(folder: Path, **facts: Any) -> CsvSink:
    sink = CsvSink()
    sink.open(make_facts(folder, **facts))
    return sink


def test_each_logged_step_is_written_immediately(tmp_path: Path) -> None:
    sink = opened(tmp_path)

    sink.write("train", step=1, **{"train/loss": 2.5, "lr": 0.1})
    sink.write("train", step=2, **{"train/loss": 2.25, "lr": 0.05})

    assert rows_of(tmp_path) == [
        {"step": "1", "train/loss": "2.5", "lr": "0.1"},
        {"step": "2", "train/loss": "2.25", "lr": "0.05"},
    ]


def test_values_of_one_step_share_a_row_and_new_metrics_add_columns(tmp_path: Path) -> None:
    sink = opened(tmp_path)
    for step in (1, 2, 3, 4):
        sink.write("train", step=step, **{"train/loss": float(step)})
        if step % 2 == 0:
            sink.write("validation", step=step, **{"val/loss": 10.0 * step})

    assert [row["train/loss"] for row in rows_of(tmp_path)] == ["1.0", "2.0", "3.0", "4.0"]
    assert [row["val/loss"] for row in rows_of(tmp_path)] == ["", "20.0", "", "40.0"]


def test_other_events_and_non_numeric_values_are_ignored(tmp_path: Path) -> None:
    sink = opened(tmp_path)

    sink.write("encoded", step=0, num_examples=5)
    sink.write("train", step=1, note="a, word", flag=True, lr=0.5)

    assert rows_of(tmp_path) == [{"step": "1", "lr": "0.5"}]


def test_a_resumed_run_removes_rows_after_its_checkpoint(tmp_path: Path) -> None:
    first = opened(tmp_path)
    for step in (1, 2, 3):
        first.write("train", step=step, loss=float(step))
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("4")  # torn

    second = opened(tmp_path, resumed_step=2)
    second.write("validation", step=2, val=9.0)
    second.write("train", step=3, loss=30.0)

    assert [(row["step"], row["loss"], row["val"]) for row in rows_of(tmp_path)] == [
        ("1", "1.0", ""),
        ("2", "2.0", ""),
        ("2", "", "9.0"),
        ("3", "30.0", ""),
    ]


def test_a_new_run_replaces_the_file(tmp_path: Path) -> None:
    opened(tmp_path).write("train", step=1, loss=1.0)

    opened(tmp_path).write("train", step=1, other=2.0)

    assert rows_of(tmp_path) == [{"step": "1", "other": "2.0"}]


def test_a_link_in_place_of_the_file_is_neither_read_nor_written_through(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("step,password\n1,secret\n")
    (tmp_path / "metrics.csv").symlink_to(victim)

    with pytest.raises(RunError, match="symbolic link"):
        opened(tmp_path, resumed_step=1)
    opened(tmp_path).write("train", step=1, lr=0.1)

    assert victim.read_text() == "step,password\n1,secret\n"
    assert rows_of(tmp_path) == [{"step": "1", "lr": "0.1"}]
