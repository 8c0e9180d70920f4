"""Writes events to `events.jsonl`, which every run has and from which its record can be rebuilt."""

from typing import Any

from ptl_prefix.artifacts.event_log import EventLog
from ptl_prefix.tracking.events import RunFacts


class DiskSink:
    """Writes every event as one line, and flushes it."""

    def open(self, facts: RunFacts) -> None:
        """Open the log; a resumed run appends to it."""
        self._log = EventLog(facts.folder.events)

    def write(self, kind: str, *, step: int, **values: Any) -> None:
        """Append a line."""
        self._log.write(kind, step=step, **values)

    def close(self, exit_code: int) -> None:
        """Close the file."""
        self._log.close()
