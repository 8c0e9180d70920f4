"""What happens becomes a record: one stream of events, several sinks.

In: events, as training logs them. Out: the same events at every sink. The disk is the source of truth: it has an event
before anybody else can fail, and its failures are the run's. No other sink's are.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
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
        notify: Tells the user one sentence.
        request_stop: Stops the run as SIGTERM would: saved, and resumable. May be called from any thread.
    """

    run_id: str
    folder: RunFolder
    config: Mapping[str, Any]
    resumed_step: int | None
    notify: Callable[[str], None]
    request_stop: Callable[[], None]


class EventSink(Protocol):
    """Where events go. `DiskSink` is the one that is always there."""

    def open(self, facts: RunFacts) -> None:
        """Make ready for the events of a run."""

    def write(self, kind: str, *, step: int, **values: Any) -> None:
        """Take one event."""

    def close(self, exit_code: int) -> None:
        """Take no more; the run's process will end with this code."""


class NoSink:
    """Takes events nowhere: those of a process that another one speaks for."""

    def open(self, facts: RunFacts) -> None:
        """There is nothing to make ready."""

    def write(self, kind: str, *, step: int, **values: Any) -> None:
        """Forget an event."""

    def close(self, exit_code: int) -> None:
        """There is nothing to close."""


class EventStream:
    """Hands each event to every sink, in order.

    The disk is told at once, and its failures are raised. The others are told by a thread, as one of them may wait for
    a server that training must not wait for. One that fails is told no more but the end, and that is said once.

    Args:
        disk: Told first.
        others: Told behind it.
        notify: Tells the user one sentence.
        close_timeout_s: How long the end waits for the others.
    """

    def __init__(
        self,
        disk: EventSink,
        others: Sequence[EventSink] = (),
        notify: Callable[[str], None] = lambda _: None,
        close_timeout_s: float = 60.0,
    ) -> None:
        self._disk, self._notify, self._close_timeout_s = disk, notify, close_timeout_s
        self._has_failed = dict.fromkeys(others, False)
        self._waiting: SimpleQueue[_Telling | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._tell_others, name="tracking", daemon=True)
        if others:
            self._thread.start()

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
        """Close every sink, and wait for them, but not for ever.

        Args:
            exit_code: What the process will end with.
        """
        self._tell(lambda sink: sink.close(exit_code), is_end=True)
        if not self._thread.is_alive():
            return
        self._waiting.put(None)
        self._thread.join(self._close_timeout_s)
        if self._thread.is_alive():
            self._notify(
                f"tracking is still at work after {self._close_timeout_s:g} s, which is not waited for any longer"
            )

    def _tell(self, tell: Callable[[EventSink], None], *, is_end: bool = False) -> None:
        tell(self._disk)
        self._waiting.put(_Telling(tell, is_end))

    def _tell_others(self) -> None:
        """Tell what is waiting, until `None` comes."""
        while (telling := self._waiting.get()) is not None:
            for sink, has_failed in self._has_failed.items():
                if not has_failed or telling.is_end:
                    self._has_failed[sink] |= not self._was_told(sink, telling, is_news=not has_failed)

    def _was_told(self, sink: EventSink, telling: "_Telling", *, is_news: bool) -> bool:
        try:
            telling.tell(sink)
        except Exception as error:
            if is_news:
                fact = f"{type(error).__name__}: {error}".splitlines()[0]
                self._notify(f"{type(sink).__name__} failed and is left out from here on; the run goes on ({fact})")
            return False
        return True


@dataclass(frozen=True)
class _Telling:
    tell: Callable[[EventSink], None]
    is_end: bool
