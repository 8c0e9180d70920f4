"""The sink that is always there: `events.jsonl`, from which a run can be rebuilt."""

from typing import Any

from ptl_prefix.artifacts.event_log import EventLog
from ptl_prefix.tracking.events import RunFacts


class DiskSink:
    """Writes every event as a line, flushed as it happens."""

    def open(self, facts: RunFacts) -> None:
        """Open the run's log, behind what a resumed run has in it."""
        self._log = EventLog(facts.folder.events)

    def write(self, kind: str, *, step: int, **values: Any) -> None:
        """Add a line."""
        self._log.write(kind, step=step, **values)

    def close(self, exit_code: int) -> None:
        """Close the file."""
        self._log.close()
