import threading
from pathlib import Path
from typing import Any

import pytest
from support.sink_facts import make_facts

from ptl_prefix.artifacts.event_log import read_events
from ptl_prefix.tracking.disk_sink import DiskSink
from ptl_prefix.tracking.events import EventStream, RunFacts


class NamedSink:
    """Records the calls of all sinks in one list."""

    def __init__(self, name: str, calls: list[Any], *, breaks: str = "") -> None:
        self.name = name
        self.calls = calls
        self.breaks = breaks

    def open(self, facts: RunFacts) -> None:
        self._record("open", facts.run_id)

    def write(self, kind: str, *, step: int, **values: Any) -> None:
        self._record("write", kind, step, values)

    def close(self, exit_code: int) -> None:
        self._record("close", exit_code)

    def _record(self, *what: Any) -> None:
        self.calls.append((self.name, *what))
        if what[0] == self.breaks:
            raise ConnectionError(f"{self.name} is down\nin many words")


def test_each_sink_receives_every_event_in_order(tmp_path: Path) -> None:
    calls: list[Any] = []
    stream = EventStream(NamedSink("disk", calls), [NamedSink("service", calls)])

    stream.open(make_facts(tmp_path))
    stream.write("train", step=1, **{"train/loss": 2.0})
    stream.close(143)

    for name in ("disk", "service"):
        assert [event for event in calls if event[0] == name] == [
            (name, "open", "some-run"),
            (name, "write", "train", 1, {"train/loss": 2.0}),
            (name, "close", 143),
        ]


@pytest.mark.parametrize("broken", ["open", "write", "close"])
def test_a_failed_sink_receives_no_further_events_and_is_named_once(tmp_path: Path, broken: str) -> None:
    calls: list[Any] = []
    notifications: list[str] = []
    others = [NamedSink("service", calls, breaks=broken), NamedSink("table", calls)]
    stream = EventStream(NamedSink("disk", calls), others, notifications.append)

    stream.open(make_facts(tmp_path))
    for step in (1, 2):
        stream.write("train", step=step)
    stream.close(0)

    of = {name: [event[1] for event in calls if event[0] == name] for name in ("disk", "service", "table")}
    assert of["disk"] == of["table"] == ["open", "write", "write", "close"]
    (sentence,) = notifications
    assert "NamedSink failed" in sentence and "service is down" in sentence and "many words" not in sentence
    assert of["service"].count(broken) == 1


def test_a_sink_that_failed_is_still_closed(tmp_path: Path) -> None:
    calls: list[Any] = []
    stream = EventStream(NamedSink("disk", calls), [NamedSink("service", calls, breaks="write")])

    stream.open(make_facts(tmp_path))
    stream.write("train", step=1)
    stream.close(1)

    assert calls[-1] == ("service", "close", 1)


def test_a_failure_of_the_disk_sink_is_raised(tmp_path: Path) -> None:
    calls: list[Any] = []
    stream = EventStream(NamedSink("disk", calls, breaks="write"), [NamedSink("service", calls)])

    with pytest.raises(ConnectionError):
        stream.write("train", step=1)
    stream.close()

    assert ("service", "write", "train", 1, {}) not in calls


def test_an_event_is_on_disk_as_soon_as_it_is_written(tmp_path: Path) -> None:
    stream = EventStream(DiskSink())
    stream.open(make_facts(tmp_path))

    stream.write("validation", step=3, **{"val/loss": 1.5})

    (event,) = read_events(tmp_path / "events.jsonl")
    assert (event["kind"], event["step"], event["val/loss"]) == ("validation", 3, 1.5)
    stream.close()


class SlowSink(NamedSink):
    """A sink that blocks until it is released."""

    def __init__(self, name: str, calls: list[Any]) -> None:
        super().__init__(name, calls)
        self.may_go_on = threading.Event()

    def write(self, kind: str, *, step: int, **values: Any) -> None:
        self.may_go_on.wait(30)
        super().write(kind, step=step, **values)


def test_writing_does_not_wait_for_a_slow_sink(tmp_path: Path) -> None:
    calls: list[Any] = []
    slow = SlowSink("service", calls)
    stream = EventStream(NamedSink("disk", calls), [slow])
    stream.open(make_facts(tmp_path))

    stream.write("train", step=1)
    stream.write("train", step=2)

    assert [event[3] for event in calls if event[:2] == ("disk", "write")] == [1, 2]
    assert not [event for event in calls if event[:2] == ("service", "write")]
    slow.may_go_on.set()
    stream.close()
    assert [event[3] for event in calls if event[:2] == ("service", "write")] == [1, 2]


def test_close_waits_up_to_its_timeout_and_notifies_the_user(tmp_path: Path) -> None:
    notifications: list[str] = []
    slow = SlowSink("service", [])
    stream = EventStream(NamedSink("disk", []), [slow], notifications.append, close_timeout_s=0.1)
    stream.write("train", step=1)

    stream.close()

    (sentence,) = notifications
    assert "did not finish within 0.1 s" in sentence
    slow.may_go_on.set()
