from typing import Any

import pytest

from ptl_prefix.artifacts.event_log import EventLog, read_events
from ptl_prefix.tracking.events import EventStream


class NamedSink:
    """Writes down in one list what each sink was told."""

    def __init__(self, name: str, told: list[Any], *, breaks: bool = False) -> None:
        self.name = name
        self.told = told
        self.breaks = breaks

    def write(self, kind: str, *, step: int, **values: Any) -> None:
        if self.breaks:
            raise ConnectionError(self.name)
        self.told.append((self.name, kind, step, values))

    def close(self) -> None:
        self.told.append((self.name, "closed"))


def test_each_event_goes_to_every_sink_in_order() -> None:
    told: list[Any] = []
    stream = EventStream([NamedSink("disk", told), NamedSink("service", told)])

    stream.write("train", step=1, **{"train/loss": 2.0})
    stream.write("finished", step=2)
    stream.close()

    assert told == [
        ("disk", "train", 1, {"train/loss": 2.0}),
        ("service", "train", 1, {"train/loss": 2.0}),
        ("disk", "finished", 2, {}),
        ("service", "finished", 2, {}),
        ("disk", "closed"),
        ("service", "closed"),
    ]


def test_the_disk_has_the_event_before_another_sink_can_fail() -> None:
    told: list[Any] = []
    stream = EventStream([NamedSink("disk", told), NamedSink("service", told, breaks=True)])

    with pytest.raises(ConnectionError):
        stream.write("train", step=1)

    assert told == [("disk", "train", 1, {})]


def test_an_event_is_on_disk_as_soon_as_it_is_written(tmp_path: Any) -> None:
    stream = EventStream([EventLog(tmp_path / "events.jsonl")])

    stream.write("validation", step=3, **{"val/loss": 1.5})

    (event,) = read_events(tmp_path / "events.jsonl")
    assert (event["kind"], event["step"], event["val/loss"]) == ("validation", 3, 1.5)
    stream.close()
