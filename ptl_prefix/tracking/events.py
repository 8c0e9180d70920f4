"""What happens becomes a record: one stream of events, several sinks.

In: events, as training logs them. Out: the same events at every sink. Disk is one of them, and the source of truth.
"""

from collections.abc import Sequence
from typing import Any, Protocol


class Sink(Protocol):
    """Where events go. `artifacts.event_log.EventLog` is the one that is always there."""

    def write(self, kind: str, *, step: int, **values: Any) -> None:
        """Take one event."""

    def close(self) -> None:
        """Take no more."""


class EventStream:
    """Hands each event to every sink, in order.

    Args:
        sinks: The first one is the disk: it has the event before anybody else can fail.
    """

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = sinks

    def write(self, kind: str, *, step: int, **values: Any) -> None:
        """Hand on one event.

        Args:
            kind: What sort of point this is.
            step: Optimizer steps done.
            values: Numbers and words by name.
        """
        for sink in self._sinks:
            sink.write(kind, step=step, **values)

    def close(self) -> None:
        """Close every sink."""
        for sink in self._sinks:
            sink.close()
