from pathlib import Path

import pytest
import yaml

from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.artifacts.event_log import EventLog
from ptl_prefix.artifacts.rebuilt_record import rebuild_record
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import MetricInfo, Parameters
from ptl_prefix.errors import RunError
from ptl_prefix.settings import defaults_of

INFO = {"scale": "nats per target token", "direction": "minimize", "version": "1", "library": "torch"}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run that was killed behind step 30."""
    folder = RunFolder(tmp_path)
    names = {group: {"name": group} for group in ("task", "backbone", "method")}
    folder.config.write_text(yaml.safe_dump({"run_id": "r", "seed": 3, **names}))
    with EventLog(folder.events) as log:
        begun = {"task_version": "2", "decoding": defaults_of("generation/greedy"), "environment": {"python": "3"}}
        log.write("begun", step=0, **begun, metric_info={"val/loss": INFO, "val/loss_before": INFO})
        log.write("bare", step=0, **{"val/loss_before": 4.0, "test/x_before": 1.0})
        log.write(
            "attached", step=0, parameters_trained=7, parameters_stored=5, parameters_backbone=9, planned_steps=99
        )
        for step, loss in ((10, 2.0), (20, 1.5), (30, 1.75)):
            log.write("validation", step=step, train_s=step / 2, tokens=step * 100, **{"val/loss": loss})
    return folder


def test_the_record_of_a_killed_run_is_rebuilt_from_its_log(folder: RunFolder) -> None:
    with folder.events.open("a") as file:
        file.write('{"torn')

    record = rebuild_record(folder)

    assert (record.status, record.run_id, record.seed, record.task, record.task_version) == (
        "died",
        "r",
        3,
        "task",
        "2",
    )
    assert record.parameters == Parameters(trained=7, stored=5, backbone=9)
    assert (record.cost.steps, record.cost.train_s, record.cost.tokens, record.cost.tokens_per_s) == (30, 15, 3000, 200)
    assert record.metrics == {"val/loss_before": 4.0, "val/loss": 1.5}
    assert record.metric_info["val/loss"] == MetricInfo(**INFO)
    assert record.budget == {"steps": 99}
    assert record.decoding == Decoding(**defaults_of("generation/greedy"))
    assert record.environment == {"python": "3"}


def test_a_resumed_run_keeps_the_counts_of_its_resumption(folder: RunFolder) -> None:
    with EventLog(folder.events) as log:
        log.write(
            "resumed", step=30, parameters_trained=7, parameters_stored=6, parameters_backbone=9, planned_steps=120
        )

    record = rebuild_record(folder)

    assert record.parameters.stored == 6 and record.budget == {"steps": 120}


def test_a_log_that_ends_before_it_says_what_was_trained_is_no_record(folder: RunFolder) -> None:
    lines = folder.events.read_bytes().splitlines(keepends=True)
    folder.events.write_bytes(b"".join(lines[:2]))

    with pytest.raises(RunError, match="ends before that"):
        rebuild_record(folder)


def test_a_log_that_lacks_something_is_refused_by_its_name(folder: RunFolder) -> None:
    folder.events.write_text(folder.events.read_text().replace("task_version", "task_edition"))

    with pytest.raises(RunError, match="task_version"):
        rebuild_record(folder)
