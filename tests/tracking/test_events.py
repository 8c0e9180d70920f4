import threading
from pathlib import Path
from typing import Any

import pytest
from support.sink_facts import make_facts

from ptl_prefix.artifacts.event_log import read_events
from ptl_prefix.tracking.disk_sink import DiskSink
from ptl_prefix.tracking.events import EventStream, RunFacts


class NamedSink:
    """Writes down in one list what each sink was told."""

    def __init__(self, name: str, told: list[Any], *, breaks: str = "") -> None:
        self.name = name
        self.told = told
        self.breaks = breaks

    def open(self, facts: RunFacts) -> None:
        self._tell("open", facts.run_id)

    def write(self, kind: str, *, step: int, **values: Any) -> None:
        self._tell("write", kind, step, values)

    def close(self, exit_code: int) -> None:
        self._tell("close", exit_code)

    def _tell(self, *what: Any) -> None:
        self.told.append((self.name, *what))
        if what[0] == self.breaks:
            raise ConnectionError(f"{self.name} is down\nin many words")


def test_each_sink_is_told_everything_in_order(tmp_path: Path) -> None:
    told: list[Any] = []
    stream = EventStream(NamedSink("disk", told), [NamedSink("service", told)])

    stream.open(make_facts(tmp_path))
    stream.write("train", step=1, **{"train/loss": 2.0})
    stream.close(143)

    for name in ("disk", "service"):
        assert [event for event in told if event[0] == name] == [
            (name, "open", "some-run"),
            (name, "write", "train", 1, {"train/loss": 2.0}),
            (name, "close", 143),
        ]


@pytest.mark.parametrize("broken", ["open", "write", "close"])
def test_a_sink_that_fails_is_left_out_and_named_once_while_the_others_go_on(tmp_path: Path, broken: str) -> None:
    told: list[Any] = []
    said: list[str] = []
    others = [NamedSink("service", told, breaks=broken), NamedSink("table", told)]
    stream = EventStream(NamedSink("disk", told), others, said.append)

    stream.open(make_facts(tmp_path))
    for step in (1, 2):
        stream.write("train", step=step)
    stream.close(0)

    of = {name: [event[1] for event in told if event[0] == name] for name in ("disk", "service", "table")}
    assert of["disk"] == of["table"] == ["open", "write", "write", "close"]
    (sentence,) = said
    assert "NamedSink failed" in sentence and "service is down" in sentence and "many words" not in sentence
    assert of["service"].count(broken) == 1


def test_a_sink_that_failed_is_still_closed(tmp_path: Path) -> None:
    told: list[Any] = []
    stream = EventStream(NamedSink("disk", told), [NamedSink("service", told, breaks="write")])

    stream.open(make_facts(tmp_path))
    stream.write("train", step=1)
    stream.close(1)

    assert told[-1] == ("service", "close", 1)


def test_a_failure_of_the_disk_is_the_runs_own(tmp_path: Path) -> None:
    told: list[Any] = []
    stream = EventStream(NamedSink("disk", told, breaks="write"), [NamedSink("service", told)])

    with pytest.raises(ConnectionError):
        stream.write("train", step=1)
    stream.close()

    assert ("service", "write", "train", 1, {}) not in told


def test_an_event_is_on_disk_as_soon_as_it_is_written(tmp_path: Path) -> None:
    stream = EventStream(DiskSink())
    stream.open(make_facts(tmp_path))

    stream.write("validation", step=3, **{"val/loss": 1.5})

    (event,) = read_events(tmp_path / "events.jsonl")
    assert (event["kind"], event["step"], event["val/loss"]) == ("validation", 3, 1.5)
    stream.close()


class SlowSink(NamedSink):
    """One that waits for a server, until it is let go."""

    def __init__(self, name: str, told: list[Any]) -> None:
        super().__init__(name, told)
        self.may_go_on = threading.Event()

    def write(self, kind: str, *, step: int, **values: Any) -> None:
        self.may_go_on.wait(30)
        super().write(kind, step=step, **values)


def test_nobody_waits_for_a_sink_that_waits_for_a_server(tmp_path: Path) -> None:
    told: list[Any] = []
    slow = SlowSink("service", told)
    stream = EventStream(NamedSink("disk", told), [slow])
    stream.open(make_facts(tmp_path))

    stream.write("train", step=1)
    stream.write("train", step=2)

    assert [event[3] for event in told if event[:2] == ("disk", "write")] == [1, 2]
    assert not [event for event in told if event[:2] == ("service", "write")]
    slow.may_go_on.set()
    stream.close()
    assert [event[3] for event in told if event[:2] == ("service", "write")] == [1, 2]


def test_the_end_does_not_wait_for_ever_and_says_so(tmp_path: Path) -> None:
    said: list[str] = []
    slow = SlowSink("service", [])
    stream = EventStream(NamedSink("disk", []), [slow], said.append, close_timeout_s=0.1)
    stream.write("train", step=1)

    stream.close()

    (sentence,) = said
    assert "not waited for" in sentence
    slow.may_go_on.set()
