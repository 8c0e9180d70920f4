"""Sends the events of a run to its sinks.

In: events, as training logs them. Out: the same events at every sink. The log on disk is the source of truth: it is
written first, and its failures fail the run. Failures of other sinks do not.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Protocol

from ptl_prefix.artifacts.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What a sink knows of a run before its first event.

    Args:
        run_id: Id of the run.
        folder: Run folder.
        config: Resolved config.
        resumed_step: Step that the run resumes from; `None` if it is new.
        notify: Shows the user one line.
        request_stop: Stops the run as SIGTERM does, with a checkpoint. Callable from any thread.
    """

    run_id: str
    folder: RunFolder
    config: Mapping[str, Any]
    resumed_step: int | None
    notify: Callable[[str], None]
    request_stop: Callable[[], None]


class EventSink(Protocol):
    """A destination of events. Every run has a `DiskSink`; other sinks are configured."""

    def open(self, facts: RunFacts) -> None:
        """Prepare for the events of a run."""

    def write(self, kind: str, *, step: int, **values: Any) -> None:
        """Write one event."""

    def close(self, exit_code: int) -> None:
        """Write what is pending, and release resources; `exit_code` is that of the run's process."""


class NoSink:
    """Discards events. Used by ranks other than 0, whose events rank 0 writes."""

    def open(self, facts: RunFacts) -> None:
        """Do nothing."""

    def write(self, kind: str, *, step: int, **values: Any) -> None:
        """Discard an event."""

    def close(self, exit_code: int) -> None:
        """Do nothing."""


class EventStream:
    """Sends each event to every sink, in order.

    The disk sink is called synchronously, and its errors are raised. A background thread calls the other sinks, because
    one of them may wait for a server and training must not. A sink that fails receives no further events but is still
    closed; the user is notified once.

    Args:
        disk: Sink that is called first.
        others: Sinks that the background thread calls.
        notify: Shows the user one line.
        close_timeout_s: Seconds that `close` waits for the other sinks.
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
        self._is_open = False
        self._queue: SimpleQueue[_Call | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._call_others, name="tracking", daemon=True)
        if others:
            self._thread.start()

    def open(self, facts: RunFacts) -> None:
        """Open every sink."""
        self._is_open = True
        self._call(lambda sink: sink.open(facts))

    def write(self, kind: str, *, step: int, **values: Any) -> None:
        """Send one event to every sink.

        Args:
            kind: Kind of the event, such as `validation`.
            step: Optimizer steps completed.
            values: Values by name.
        """
        self._call(lambda sink: sink.write(kind, step=step, **values))

    def close(self, exit_code: int = 0) -> None:
        """Close every sink, and wait for them up to `close_timeout_s`. A stream that was never opened only ends.

        Args:
            exit_code: Exit code of the run's process.
        """
        if self._is_open:
            self._call(lambda sink: sink.close(exit_code), is_close=True)
        if not self._thread.is_alive():
            return
        self._queue.put(None)
        self._thread.join(self._close_timeout_s)
        if self._thread.is_alive():
            self._notify(
                f"tracking did not finish within {self._close_timeout_s:g} s; the run ends without waiting for it"
            )

    def _call(self, action: Callable[[EventSink], None], *, is_close: bool = False) -> None:
        action(self._disk)
        self._queue.put(_Call(action, is_close))

    def _call_others(self) -> None:
        """Process the queue until it yields `None`."""
        while (call := self._queue.get()) is not None:
            for sink, has_failed in self._has_failed.items():
                if not has_failed or call.is_close:
                    self._has_failed[sink] |= not self._succeeds(sink, call, notifies=not has_failed)

    def _succeeds(self, sink: EventSink, call: "_Call", *, notifies: bool) -> bool:
        """Call a sink, and return whether it raised nothing."""
        try:
            call.action(sink)
        except Exception as error:
            if notifies:
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                self._notify(
                    f"{type(sink).__name__} failed and receives no further events; the run continues ({reason})"
                )
            return False
        return True


@dataclass(frozen=True)
class _Call:
    action: Callable[[EventSink], None]
    is_close: bool
