"""One connection of a client, watched: a client that says nothing, or reads nothing, does not keep it.

In: what uvicorn gives a protocol. Out: the same protocol, with three bounds that it lacks: seconds until the head of a
request has arrived, seconds for which a client may leave what was sent to it unread, and the number of connections.
Each connection takes an open file of the process, and an answer that nobody reads keeps its places.
"""

import asyncio
import resource
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

_FILES_KEPT_FREE = 64
"""Open files that connections leave for bundles, logs and libraries."""


def max_connections() -> int:
    """The number of connections that the process's limit of open files allows."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2**16 if limit == resource.RLIM_INFINITY else max(limit - _FILES_KEPT_FREE, 16)


class WatchedConnection(H11Protocol):
    """A connection that is cut off when its client keeps it for nothing."""

    head_s = 30.0
    """Seconds from the connection, or from the last answer, until the head of a request must be whole."""
    unread_s = 30.0
    """Seconds for which a client may leave what was sent to it unread, once the buffers in between are full."""
    most = max_connections()
    """Largest number of connections."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._head_timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Take a connection, unless there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
            transport.abort()
        else:
            self._wait_for_a_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        _cancel(self._head_timer)
        _cancel(self._unread_timer)
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Wait for the next request; uvicorn stops its own timer at the first byte."""
        self._wait_for_a_head()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Give a client time to read, when the buffers to it are full."""
        super().pause_writing()
        self._unread_timer = self.loop.call_later(self.unread_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on after the client has read."""
        _cancel(self._unread_timer)
        super().resume_writing()

    def _wait_for_a_head(self) -> None:
        _cancel(self._head_timer)
        self._head_timer = self.loop.call_later(self.head_s, self._cut_off_without_a_head)

    def _cut_off_without_a_head(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
