"""Event logs: lines that survive a kill, and logs that are continued after one."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptl_prefix.artifacts.event_log import EventLog, cut_torn_line, drop_events_after, read_events
from ptl_prefix.errors import RunError, StorageError


def log_of(path: Path, steps: list[int]) -> bytes:
    with EventLog(path) as log:
        for step in steps:
            log.write("train", step=step, loss=step / 3)
    return path.read_bytes()


def steps_in(path: Path) -> list[int]:
    return [event["step"] for event in read_events(path)]


text = st.text(max_size=8)
value = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text
key = text.filter(lambda name: name not in ("self", "kind", "step", "time_s"))


@settings(max_examples=50)
@given(events=st.lists(st.tuples(text, st.integers(), st.dictionaries(key, value | st.lists(value), max_size=3))))
def test_events_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[str, int, dict[str, Any]]]
) -> None:
    path = tmp_path_factory.mktemp("run") / "events.jsonl"

    with EventLog(path) as log:
        for kind, step, values in events:
            log.write(kind, step=step, **values)

    read = [(event.pop("kind"), event.pop("step"), event) for event in read_events(path)]
    assert all(event.pop("time_s") <= time.time() + 1 for _, _, event in read)
    assert read == events


def test_an_event_says_when_what_and_at_which_step_first(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        log.write("validation", step=100, **{"val/loss": 2.5})

    (line,) = path.read_text().splitlines()
    assert list(json.loads(line)) == ["time_s", "kind", "step", "val/loss"]


def test_a_line_is_on_disk_before_write_returns(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path)

    for step in range(3):
        log.write("train", step=step)
        assert steps_in(path) == list(range(step + 1))

    log.close()


def test_a_log_that_is_opened_again_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log_of(path, [1, 2])
    log_of(path, [3])

    assert steps_in(path) == [1, 2, 3]


def test_a_log_cut_anywhere_keeps_its_whole_lines_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    whole = log_of(path, [1, 2, 3])

    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        num_whole = whole[:length].count(b"\n")
        assert steps_in(path) == [1, 2, 3][:num_whole]
        log_of(path, [9])
        assert steps_in(path) == [*[1, 2, 3][:num_whole], 9]


@pytest.mark.parametrize("num_whole", [10, 100_000])
@pytest.mark.parametrize("num_torn", [10, 65_526, 200_000])
def test_a_torn_line_is_cut_off_however_long_the_lines_are(tmp_path: Path, num_whole: int, num_torn: int) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        log.write("train", step=1, text="x" * num_whole)
    with path.open("ab") as file:
        file.write(b'{"text": "' + b"x" * num_torn)

    log_of(path, [3])

    assert steps_in(path) == [1, 3]


def test_a_log_of_one_torn_line_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"x" * 200_000)

    log_of(path, [3])

    assert steps_in(path) == [3]


def test_cutting_touches_neither_a_whole_log_nor_an_empty_or_absent_one(tmp_path: Path) -> None:
    whole, empty, absent = tmp_path / "whole", tmp_path / "empty", tmp_path / "absent"
    log_of(whole, [1, 2])
    empty.touch()
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (whole, empty)}
    opened: list[str] = []
    usual = Path.open

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", lambda path, mode="r", *more: (opened.append(mode), usual(path, mode, *more))[1])
        for path in (whole, empty, absent):
            cut_torn_line(path)

    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (whole, empty)} == before
    assert opened == ["rb"]
    assert not absent.exists()


@pytest.mark.parametrize(
    ("line", "fact"),
    [
        (b'{"time_s": 1.0, "kind": "train", "st', "it is not JSON"),
        (b"", "it is not JSON"),
        (b"[1]", "it is not a JSON object"),
        (b'{"time_s": 1.0, "kind": "train"}', "its `step` is None"),
        (b'{"time_s": 1.0, "kind": "train", "step": true}', "its `step` is True"),
        (b'{"time_s": "1", "kind": "train", "step": 1}', "its `time_s` is '1'"),
        (b'{"time_s": 1.0, "kind": 1, "step": 1}', "its `kind` is 1"),
        (b'{"time_s": 1.0, "kind": "train", "step": 1, "loss": NaN}', "it holds NaN"),
    ],
)
def test_a_damaged_line_before_the_last_is_named(tmp_path: Path, line: bytes, fact: str) -> None:
    path = tmp_path / "events.jsonl"
    first, _, last = log_of(path, [1, 2, 3]).splitlines(keepends=True)
    damaged = first + line + b"\n" + last
    path.write_bytes(damaged)

    for reading in (read_events, lambda path: drop_events_after(path, 2)):
        with pytest.raises(RunError) as refusal:
            reading(path)
        assert f"line 2 of {path} is not one: {fact}" in str(refusal.value)
    assert path.read_bytes() == damaged


def test_a_log_that_is_not_there_cannot_be_read_but_has_nothing_to_drop(tmp_path: Path) -> None:
    assert drop_events_after(tmp_path / "events.jsonl", 0) == 0
    with pytest.raises(RunError, match="cannot be read"):
        read_events(tmp_path / "events.jsonl")


@settings(max_examples=30)
@given(steps=st.lists(st.integers(0, 9)), last=st.integers(-1, 10), torn=st.booleans())
def test_dropping_keeps_the_bytes_of_what_came_before(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], last: int, torn: bool
) -> None:
    path = tmp_path_factory.mktemp("run") / "events.jsonl"
    whole = log_of(path, steps)
    path.write_bytes(whole + b'{"torn' * torn)

    dropped = drop_events_after(path, last)

    kept = [line for line, step in zip(whole.splitlines(keepends=True), steps, strict=True) if step <= last]
    assert path.read_bytes() == b"".join(kept)
    assert dropped == len(steps) - len(kept)


@pytest.mark.parametrize(
    ("bad", "fact"),
    [(float("nan"), "`loss` is nan"), ([1.0, float("inf")], "`loss.1` is inf"), (object(), "`loss` is a object")],
)
def test_a_value_that_json_cannot_hold_is_refused_and_the_log_stays_whole(
    tmp_path: Path, bad: object, fact: str
) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        with pytest.raises(ValueError, match=fact):
            log.write("train", step=1, loss=bad)
        with pytest.raises(ValueError, match="may be named `time_s`"):
            log.write("train", step=1, time_s=0)
        log.write("train", step=2)

    assert steps_in(path) == [2]


def test_threads_do_not_tear_each_others_lines(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:

        def write_many(kind: str) -> None:
            for step in range(50):
                log.write(kind, step=step, text=kind * 3000)

        threads = [threading.Thread(target=write_many, args=(kind,)) for kind in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    events = read_events(path)
    for kind in "abcd":
        assert [event["step"] for event in events if event["kind"] == kind] == list(range(50))


def test_a_killed_writer_loses_at_most_the_line_it_was_writing(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    script = """
import itertools, sys
from ptl_prefix.artifacts.event_log import EventLog
log = EventLog(sys.argv[1])
for step in itertools.count():
    log.write("train", step=step, text="x" * 20000)
    print(step, flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            if int(line) >= 20:
                break
        writer.send_signal(signal.SIGKILL)
        said = [int(line), *(int(rest) for rest in writer.stdout)]

    steps = steps_in(path)
    assert steps == list(range(len(steps)))
    assert len(steps) >= max(said) + 1


@pytest.mark.parametrize("loss", ["removed", "replaced", "whole folder"])
def test_a_log_that_vanishes_while_it_is_written_is_noticed(tmp_path: Path, loss: str) -> None:
    path = tmp_path / "run" / "events.jsonl"
    with EventLog(path) as log:
        log.write("train", step=1)
        if loss == "whole folder":
            path.parent.rename(tmp_path / "elsewhere")
        else:
            path.unlink()
        if loss == "replaced":
            path.write_text("")

        with pytest.raises(RunError, match=r"events\.jsonl is (gone|another file now)"):
            log.write("train", step=2)


def test_a_link_in_place_of_a_log_is_refused_and_its_target_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "events.jsonl").symlink_to(tmp_path / "victim")

    with pytest.raises(RunError, match="symbolic link"):
        EventLog(tmp_path / "events.jsonl")

    assert (tmp_path / "victim").read_text() == "mine"


def test_a_line_that_a_full_disk_takes_in_part_is_removed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "events.jsonl"
    usual = os.write
    taken = iter([True, False])

    def fill_up(descriptor: int, data: bytes) -> int:
        if next(taken):
            return usual(descriptor, bytes(data)[:5])
        raise OSError(errno.ENOSPC, "No space left on device")

    with EventLog(path) as log:
        log.write("train", step=1)
        before = path.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", fill_up)
            with pytest.raises(StorageError, match=r"events\.jsonl must be written, which needs \d+ bytes"):
                log.write("train", step=2)
        assert path.read_bytes() == before
        log.write("error", step=2)

    assert [event["kind"] for event in read_events(path)] == ["train", "error"]
