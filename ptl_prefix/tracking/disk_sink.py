"""Writes events to `events.jsonl`, which every run has and from which its record can be rebuilt."""

from typing import Any

from ptl_prefix.artifacts.event_log import EventLog
from ptl_prefix.tracking.events import RunFacts


class DiskSink:
    """Writes every event as one line, and flushes it."""

    _log: EventLog | None = None

    def open(self, facts: RunFacts) -> None:
        """Open the log; a resumed run appends to it."""
        self._log = EventLog(facts.folder.events)

    def write(self, kind: str, *, step: int, **values: Any) -> None:
        """Append a line."""
        assert self._log is not None, "A sink is opened before it is written to."
        self._log.write(kind, step=step, **values)

    def close(self, exit_code: int) -> None:
        """Close the file."""
        if self._log is not None:
            self._log.close()
