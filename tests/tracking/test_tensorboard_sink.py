import struct
from pathlib import Path
from typing import Any

import pytest
from support.sink_facts import make_facts

from ptl_prefix.tracking.tensorboard_sink import TensorBoardSink

pytest.importorskip("tensorboardX", reason="tensorboardX is an extra")


def events_in(folder: Path) -> list[Any]:
    """The events in all files of a folder; the format is length, checksum, content, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    events = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        content, place = path.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack("<Q", content[place : place + 8])
            event = Event()
            event.ParseFromString(content[place + 12 : place + 12 + length])
            events.append(event)
            place += length + 16
    return events


def test_curves_and_samples_are_in_tensorboards_files(tmp_path: Path) -> None:
    sink = TensorBoardSink()
    sink.open(make_facts(tmp_path))

    sink.write("train", step=3, **{"train/loss": 2.5})
    sink.write("samples", step=4, samples=[{"source": "a table", "hypothesis": "some text"}])
    sink.write("encoded", step=0, num_examples=5)
    sink.close(0)

    values = [(event.step, value) for event in events_in(tmp_path / "tensorboard") for value in event.summary.value]
    (loss, text) = values
    assert (loss[0], loss[1].tag, loss[1].simple_value) == (3, "train/loss", 2.5)
    assert text[0] == 4 and text[1].tag.startswith("sample 0")
    assert b"some text" in text[1].tensor.string_val[0]


def test_a_resumed_run_hides_what_it_repeats(tmp_path: Path) -> None:
    sink = TensorBoardSink()
    sink.open(make_facts(tmp_path, resumed_step=7))
    sink.close(0)

    starts = [event.step for event in events_in(tmp_path / "tensorboard") if event.HasField("session_log")]
    assert starts == [8]
