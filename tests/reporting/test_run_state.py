"""The state and summary of complete, incomplete and damaged runs."""

import os
import time
from pathlib import Path

import pytest
from support.made_up_runs import make_run

from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.reporting.run_state import bytes_on_disk, main_metric, read_state, summarize_run


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return make_run(tmp_path / "run")


@pytest.mark.parametrize("status", ["finished", "stopped", "failed", "pruned"])
def test_the_state_of_an_ended_run_is_the_status_in_its_record(tmp_path: Path, status: str) -> None:
    assert read_state(make_run(tmp_path / "run", status=status)) == status


def test_a_run_without_a_record_died(folder: RunFolder) -> None:
    folder.record.unlink()

    assert read_state(folder) == "died"


def test_a_run_that_is_held_is_running_even_with_an_older_record(folder: RunFolder) -> None:
    with folder.held():
        assert read_state(folder) == "running"

    assert read_state(folder) == "finished"


def test_reading_the_state_changes_no_file(folder: RunFolder) -> None:
    before = sorted(folder.path.rglob("*"))

    summarize_run(folder)

    assert sorted(folder.path.rglob("*")) == before


def test_a_record_that_cannot_be_read_is_damaged(folder: RunFolder) -> None:
    folder.record.write_text("{")

    line = summarize_run(folder)

    assert (line.state, line.method, line.step) == ("damaged", "prefix_tuning", 40)


def test_a_summary_has_the_values_of_the_record(folder: RunFolder) -> None:
    line = summarize_run(folder)

    assert (line.task, line.backbone, line.method, line.seed, line.step) == ("towns", "tiny", "prefix_tuning", 0, 40)
    assert (line.metric, line.value, line.direction) == ("test/bleu", 50.0, "maximize")
    assert line.size_bytes == sum(path.stat().st_size for path in folder.path.rglob("*") if path.is_file())


def test_a_died_run_is_summarized_from_its_config_and_log(folder: RunFolder) -> None:
    folder.record.unlink()
    with folder.events.open("ab") as log:
        log.write(b'{"time_s": 1.0, "kind": "train", "ste')

    line = summarize_run(folder)

    assert (line.task, line.method, line.seed, line.step) == ("towns", "prefix_tuning", 0, 40)
    assert (line.metric, line.value, line.direction) == ("val/loss", 1.0, "minimize")


def test_a_run_with_damaged_files_is_listed(folder: RunFolder) -> None:
    folder.record.write_bytes(b"\xff")
    folder.config.write_text("{: [")
    folder.events.write_text("nonsense\n")

    line = summarize_run(folder)

    assert (line.state, line.method, line.seed, line.metric, line.value) == ("damaged", "", None, "", None)


def test_the_age_counts_from_the_last_written_file(folder: RunFolder) -> None:
    now = time.time()
    for path in (folder.config, folder.events, folder.record):
        os.utime(path, (now - 5000, now - 5000))
    os.utime(folder.events, (now - 100, now - 100))

    assert summarize_run(folder).age_s == pytest.approx(100, abs=20)


@pytest.mark.parametrize(
    ("metrics", "main"),
    [
        (["val/loss_before", "test/bleu_before", "val/loss", "test/loss", "test/bleu", "test/nist"], "test/bleu"),
        (["val/loss", "test/loss"], "val/loss"),
        (["val/x_before", "val/x"], "val/x"),
        (["val/loss_before"], None),
    ],
)
def test_the_main_metric_is_the_tasks_own(metrics: list[str], main: str | None) -> None:
    assert main_metric(dict.fromkeys(metrics, 1.0)) == main


def test_a_missing_folder_has_size_0(tmp_path: Path) -> None:
    assert bytes_on_disk(tmp_path / "gone") == 0
