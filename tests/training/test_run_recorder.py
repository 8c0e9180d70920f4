import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.sink_facts import make_facts
from support.tiny_runs import TinyRuns

from ptl_prefix.artifacts.event_log import read_events
from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import Status, read_record
from ptl_prefix.tracking.disk_sink import DiskSink
from ptl_prefix.tracking.events import EventStream
from ptl_prefix.training.meter import Meter
from ptl_prefix.training.run_recorder import RunRecorder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


@pytest.fixture
def events(folder: RunFolder) -> Iterator[EventStream]:
    stream = EventStream(DiskSink())
    stream.open(make_facts(folder.path))
    yield stream
    stream.close()


def recorder_of(tiny_runs: TinyRuns, folder: RunFolder, events: EventStream, **counted: Any) -> RunRecorder:
    meter = Meter(events, log_every_n_steps=1)
    for name, value in counted.items():
        setattr(meter, name, value)
    return RunRecorder(tiny_runs.plan(), folder, events, meter)


OUTPUTS = [
    Prediction(id="0", source="", references=("a b", "c"), hypothesis=" a  b ", values=("a", "z")),
    Prediction(id="1", source="", references=("d",), hypothesis="e", values=("e", "e")),
]


def test_scores_are_recorded_with_their_meaning(tiny_runs: TinyRuns, folder: RunFolder, events: EventStream) -> None:
    recorder = recorder_of(tiny_runs, folder, events)

    recorder.add_scores("test", OUTPUTS, suffix="_before")
    recorder.add_scores("validation", OUTPUTS[1:])
    record = recorder.finish("finished")

    assert record.metrics == {
        "test/exact_match_before": 0.5,
        "test/attribute_accuracy_before": 0.75,
        "val/exact_match": 0.0,
        "val/attribute_accuracy": 1.0,
    }
    assert record.metric_info.keys() == record.metrics.keys()
    assert record.metric_info["test/exact_match_before"].direction == "maximize"


def test_a_loss_is_in_nats_per_target_token(tiny_runs: TinyRuns, folder: RunFolder, events: EventStream) -> None:
    recorder = recorder_of(tiny_runs, folder, events)

    recorder.add_loss("val/loss", 2.5)
    record = recorder.finish("finished")

    assert record.metrics == {"val/loss": 2.5}
    info = record.metric_info["val/loss"]
    assert (info.scale, info.direction) == ("nats per target token", "minimize")
    assert info.library.startswith("torch ")


@pytest.mark.parametrize("status", ["finished", "stopped", "failed", "pruned"])
def test_the_end_is_in_the_record_and_the_log(
    tiny_runs: TinyRuns, folder: RunFolder, events: EventStream, status: Status
) -> None:
    recorder = recorder_of(tiny_runs, folder, events, steps=7, num_tokens=40, train_s=2.0, planned_steps=9)
    recorder.add_loss("val/loss", 2.5)

    record = recorder.finish(status)

    assert read_record(folder.record) == record
    assert record.status == status
    assert (record.cost.steps, record.cost.tokens, record.cost.tokens_per_s) == (7, 40, 20.0)
    assert record.budget == {"steps": 9}
    (event,) = read_events(folder.events)
    assert (event["kind"], event["step"], event["val/loss"]) == (status, 7, 2.5)


def test_skipped_metrics_are_not_in_the_record(tiny_runs: TinyRuns, folder: RunFolder, events: EventStream) -> None:
    recorder_of(tiny_runs, folder, events).finish("failed")

    written = json.loads(folder.record.read_text())
    assert written["metrics"] == {}
    assert written["budget"] is None
    assert written["parameters"] == {"trained": 0, "stored": 0, "backbone": 0}


def test_parameters_are_counted_once_the_method_is_attached(
    tiny_runs: TinyRuns, folder: RunFolder, events: EventStream
) -> None:
    plan, backbone = tiny_runs.attached()
    recorder = RunRecorder(plan, folder, events, Meter(events, log_every_n_steps=1))

    recorder.count_parameters(backbone)
    parameters = recorder.finish("finished").parameters

    # Two layers of keys and values, 3 positions, width 24.
    assert parameters.stored == 2 * 2 * 3 * 24
    assert parameters.trained == plan.method.num_trainable
    assert parameters.backbone == backbone.num_parameters
