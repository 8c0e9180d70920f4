"""What happens becomes a record: one stream of events, several sinks.

In: events, as training logs them. Out: the same events at every sink. Disk is the first of them, and the source of
truth: it has an event before anybody else can fail, and its failures are the run's. No other sink's are.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ptl_prefix.artifacts.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What sinks may want to know of a run before its first event.

    Args:
        run_id: The run's name.
        folder: Where it keeps its things.
        config: The resolved config.
        resumed_step: The step that the run goes on from; `None` if it begins.
        say: Tells the user one sentence.
        request_stop: Stops the run as SIGTERM would: saved, and resumable. May be called from any thread.
    """

    run_id: str
    folder: RunFolder
    config: Mapping[str, Any]
    resumed_step: int | None
    say: Callable[[str], None]
    request_stop: Callable[[], None]


class EventSink(Protocol):
    """Where events go. `DiskSink` is the one that is always there."""

    def open(self, facts: RunFacts) -> None:
        """Make ready for the events of a run."""

    def write(self, kind: str, *, step: int, **values: Any) -> None:
        """Take one event."""

    def close(self, exit_code: int) -> None:
        """Take no more; the run's process will end with this code."""


class EventStream:
    """Hands each event to every sink, in order.

    A sink that fails is told no more but the end, and that is said once. The first one's failures are raised.

    Args:
        sinks: The first one is the disk.
        say: Tells the user one sentence.
    """

    def __init__(self, sinks: Sequence[EventSink], say: Callable[[str], None] = lambda _: None) -> None:
        self._truth, self._others = list(sinks[:1]), list(sinks[1:])
        self._failed: list[EventSink] = []
        self._say = say

    def open(self, facts: RunFacts) -> None:
        """Make every sink ready."""
        self._tell(lambda sink: sink.open(facts))

    def write(self, kind: str, *, step: int, **values: Any) -> None:
        """Hand on one event.

        Args:
            kind: What sort of point this is.
            step: Optimizer steps done.
            values: Numbers and words by name.
        """
        self._tell(lambda sink: sink.write(kind, step=step, **values))

    def close(self, exit_code: int = 0) -> None:
        """Close every sink.

        Args:
            exit_code: What the process will end with.
        """
        failed = tuple(self._failed)
        self._tell(lambda sink: sink.close(exit_code))
        for sink in failed:
            with contextlib.suppress(Exception):
                sink.close(exit_code)

    def _tell(self, tell: Callable[[EventSink], None]) -> None:
        for sink in self._truth:
            tell(sink)
        for sink in tuple(self._others):
            try:
                tell(sink)
            except Exception as error:
                self._others.remove(sink)
                self._failed.append(sink)
                fact = f"{type(error).__name__}: {error}".splitlines()[0]
                self._say(f"{type(sink).__name__} failed and is left out from here on; the run goes on ({fact})")
