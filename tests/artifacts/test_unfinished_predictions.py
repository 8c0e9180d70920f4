"""Unfinished predictions: those of a killed process are read, cut to complete lines, and continued."""

from pathlib import Path

import pytest

from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.artifacts.unfinished_predictions import UnfinishedPredictions
from ptl_prefix.errors import DataError, RunError

ONE, TWO, THREE = (
    Prediction(id=str(number), source="s", references=("r",), hypothesis="wrote\nthis é") for number in range(3)
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "evaluation" / "unfinished.jsonl"


def test_a_new_file_is_empty(path: Path) -> None:
    with UnfinishedPredictions(path) as unfinished:
        assert unfinished.read() == []


def test_what_was_added_is_there_for_the_next_process(path: Path) -> None:
    with UnfinishedPredictions(path) as unfinished:
        unfinished.add([ONE, TWO])

    with UnfinishedPredictions(path) as again:
        assert again.read() == [ONE, TWO]
        again.add([THREE])
        assert again.read() == [ONE, TWO, THREE]


@pytest.mark.parametrize("kept", [1, 9, 30])
def test_a_torn_last_line_is_cut_off_and_the_next_one_stands_in_its_place(path: Path, kept: int) -> None:
    with UnfinishedPredictions(path) as unfinished:
        unfinished.add([ONE, TWO])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:kept])

    with UnfinishedPredictions(path) as again:
        assert again.read() == [ONE]
        again.add([THREE])
        assert again.read() == [ONE, THREE]


def test_a_batch_is_on_disk_as_soon_as_it_is_added(path: Path) -> None:
    with UnfinishedPredictions(path) as unfinished:
        unfinished.add([ONE])

        assert path.read_text(encoding="utf-8").count("\n") == 1


def test_two_processes_do_not_write_the_same_file(path: Path) -> None:
    with (
        UnfinishedPredictions(path),
        pytest.raises(RunError, match=r"another process is writing .*unfinished.jsonl; wait"),
    ):
        UnfinishedPredictions(path)


def test_a_damaged_line_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("{}\n")

    with UnfinishedPredictions(path) as unfinished, pytest.raises(DataError, match="line 1"):
        unfinished.read()


def test_it_is_removed_when_all_is_finished(path: Path) -> None:
    with UnfinishedPredictions(path) as unfinished:
        unfinished.remove()

    assert not path.exists()
