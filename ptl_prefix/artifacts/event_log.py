"""What happened during a run, as it happened: `events.jsonl`, one line per logged point.

In: a kind, a step and values. Out: a line in the file before `write` returns, so that a killed run loses at most the
line it was writing. That torn line has no end, which is how readers know to ignore it and a resumed run to cut it off.
"""

import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.artifacts.json_document import DocumentError, json_problem, parse_values
from ptl_prefix.errors import RunError


class EventLog:
    """An open log that lines are added to; one writer per file.

    Args:
        path: The file. It is made if it is missing, and a torn last line is cut off.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        cut_torn_line(path)
        self._file = path.open("ab")

    def write(self, kind: str, *, step: int, **values: Any) -> None:
        """Add one line: `{"time_s": …, "kind": …, "step": …, …}`, where `time_s` counts from 1970.

        Args:
            kind: What sort of point this is; readers select by it.
            step: Optimiser steps done.
            values: JSON values. A metric's name may hold a slash: `**{"val/loss": 2.5}`.

        Raises:
            ValueError: For a value that strict JSON cannot hold, such as NaN.
        """
        if "time_s" in values:
            raise ValueError("An event's values must not be called `time_s`, which is the log's own; rename yours.")
        event = {"time_s": round(time.time(), 3), "kind": kind, "step": step, **values}
        if fact := json_problem(event):
            raise ValueError(f"An event must hold finite JSON values, but {fact}; leave it out or make it text.")
        # One call with the whole line: threads of one process cannot interleave inside it.
        self._file.write(json.dumps(event, allow_nan=False).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file; the log is whole even without this."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def validation_losses(events: Iterable[Mapping[str, Any]]) -> list[tuple[int, float]]:
    """The steps and losses of a run's validations, in order."""
    return [
        (event["step"], event["val/loss"]) for event in events if event["kind"] == "validation" and "val/loss" in event
    ]


def read_events(path: str | Path) -> list[dict[str, Any]]:
    """Every whole line of a log, in order.

    Raises:
        RunError: If there is no log, or naming the first line that is no event.
    """
    path = Path(path)
    return [_event(line, path, number) for number, line in enumerate(_whole_lines(path), start=1)]


def drop_events_after(path: str | Path, step: int) -> int:
    """Forget what was logged after `step`, as a run does that goes on from a checkpoint of that step.

    Returns:
        How many events were dropped, not counting a torn last line, which goes too. 0 if there is no log.

    Raises:
        RunError: Naming the first line that is no event; nothing is dropped then.
    """
    path = Path(path)
    if not path.exists():
        return 0
    lines = _whole_lines(path)
    kept = [line for number, line in enumerate(lines, start=1) if _event(line, path, number)["step"] <= step]
    content = b"".join(line + b"\n" for line in kept)
    if len(content) != path.stat().st_size:
        write_atomically(path, content)
    return len(lines) - len(kept)


def _whole_lines(path: Path) -> list[bytes]:
    try:
        return path.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise RunError(
            f"A run must have a log of events, but {path} cannot be read ({error.strerror}); check the run's path."
        ) from error


def _event(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        event = parse_values(line)
    except DocumentError as error:
        raise _damaged(path, number, f"it {error}") from error
    for key, kinds in (("time_s", (int, float)), ("kind", (str,)), ("step", (int,))):
        if type(event.get(key)) not in kinds:
            raise _damaged(path, number, f"its `{key}` is {event.get(key)!r:.40}")
    return event


def _damaged(path: Path, number: int, fact: str) -> RunError:
    law = "A log of events must hold one event per line"
    return RunError(f"{law}, but line {number} of {path} is none: {fact}; remove that line, or repeat the run.")


def cut_torn_line(path: Path) -> None:
    """Shorten a log to its last end of line. In place: the bytes that stay are not touched, nor is a whole log."""
    if not path.exists() or not path.stat().st_size:
        return
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) == b"\n":
            return
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - 65536)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        file.truncate(end)
