"""The event log of a run: `events.jsonl`, one JSON object per line.

In: a kind, a step and values. Out: a line in the file before `write` returns, so that a killed run loses at most the
line that it was writing. Such an incomplete last line is ignored by readers, and removed when the run is resumed. A
line that the disk did not take is removed at once, so that later lines follow whole ones. A log that was removed or
replaced while it is written is an error.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ptl_prefix.artifacts.atomic import storage_errors, write_all, write_atomically
from ptl_prefix.artifacts.file_lock import open_unlinked, read_unlinked
from ptl_prefix.artifacts.json_document import DocumentError, json_problem, parse_values
from ptl_prefix.errors import RunError


class EventLog:
    """An event log that is open for appending; a file has one writer at a time.

    Args:
        path: File of the log. It is created if it is missing, and an incomplete last line is removed.

    Raises:
        RunError: `path` is a symbolic link.
        StorageError: The disk does not take the file.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        with storage_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = open_unlinked(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
            cut_torn_line(self._path)

    def write(self, kind: str, *, step: int, **values: Any) -> None:
        """Add one line: `{"time_s": …, "kind": …, "step": …, …}`, where `time_s` counts from 1970.

        Args:
            kind: Kind of the event, such as `validation`; readers select by it.
            step: Number of optimiser steps so far.
            values: JSON values by name. A name may hold a slash: `**{"val/loss": 2.5}`.

        Raises:
            ValueError: A value cannot be stored in strict JSON, such as NaN.
            RunError: The file is not at its path any more.
            StorageError: The disk does not take the line; the log is as it was before.
        """
        if "time_s" in values:
            raise ValueError("No value of an event may be named `time_s`, which the log itself writes; rename it.")
        event = {"time_s": round(time.time(), 3), "kind": kind, "step": step, **values}
        if fact := json_problem(event):
            raise ValueError(f"An event must hold finite JSON values, but {fact}; leave it out, or convert it to text.")
        self.require_in_place()
        line = json.dumps(event, allow_nan=False).encode() + b"\n"
        with storage_errors(self._path, len(line)):
            self._append(line)

    def _append(self, line: bytes) -> None:
        size = os.fstat(self._descriptor).st_size
        try:
            # Usually one call with the whole line, so that lines of several threads do not mix.
            write_all(self._descriptor, line)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, size)
            raise

    def require_in_place(self) -> None:
        """Require that the log is still the file at its path.

        Raises:
            RunError: It was removed, moved or replaced, so that events would be lost.
        """
        try:
            found = os.lstat(self._path)
        except OSError:
            found = None
        if found is None or not os.path.samestat(found, os.fstat(self._descriptor)):
            fact = "is gone" if found is None else "is another file now"
            raise RunError(
                f"The files of a run must stay where they are until it ends, but its log {self._path} {fact}; "
                "restore the run folder and resume the run, or repeat it."
            )

    def close(self) -> None:
        """Close the file; the log is complete even without this."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def validation_losses(events: Iterable[Mapping[str, Any]]) -> list[tuple[int, float]]:
    """The step and the loss of each validation on the whole split, in order."""
    return [
        (event["step"], event["val/loss"]) for event in events if event["kind"] == "validation" and "val/loss" in event
    ]


def ranking_losses(events: Iterable[Mapping[str, Any]]) -> list[tuple[int, float]]:
    """The step and the loss of each validation while training, in order, all of them on the same examples.

    They are those of a subset if the run ranks its checkpoints by one (`training.validation_examples`).
    """
    subset = [
        (event["step"], event["val/subset_loss"])
        for event in events
        if event["kind"] == "validation" and "val/subset_loss" in event
    ]
    return subset or validation_losses(events)


def read_events(path: str | Path) -> list[dict[str, Any]]:
    """Read the events of a log, in order.

    Raises:
        RunError: The log is missing or a symbolic link, or a line is not an event; the message names the line.
    """
    path = Path(path)
    return [_event(line, path, number) for number, line in enumerate(_whole_lines(path), start=1)]


def drop_events_after(path: str | Path, step: int) -> int:
    """Remove the events after `step`, as for a run that is resumed from a checkpoint of that step.

    Returns:
        Number of removed events, without an incomplete last line, which is removed too; 0 if there is no log.

    Raises:
        RunError: A line is not an event; nothing is removed.
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
        return read_unlinked(path).split(b"\n")[:-1]
    except OSError as error:
        raise RunError(
            f"A run must have an event log, but {path} cannot be read ({error.strerror}); check the run's path."
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
    law = "An event log must hold one event per line"
    return RunError(f"{law}, but line {number} of {path} is not one: {fact}; remove that line, or repeat the run.")


def cut_torn_line(path: Path) -> None:
    """Truncate a log after its last complete line, in place; a log without an incomplete line is not touched."""
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
