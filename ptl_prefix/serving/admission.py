"""Who may wait: a bounded number of requests, of all clients and of each.

In: a client's name, and how many texts it asks for. Out: places that are held until the texts are finished, taken
before anything is tokenised; or an `ApiError`: 429 with the seconds after which a place is likely to be free, or 503
while the server stops.
"""

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ptl_prefix.serving.api_error import ApiError, invalid

_RECENT = 32
"""Number of freed places from which the time until the next one is estimated."""
_LONGEST_WAIT_S = 60


class Admission:
    """The places of a server. It is used by the event loop's thread alone.

    Args:
        max_requests: Largest number of texts that run or wait.
        max_requests_per_client: The same, of one client.
        clock: Seconds, as `time.monotonic` counts them.
    """

    def __init__(
        self, *, max_requests: int, max_requests_per_client: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_requests = max_requests
        self._max_per_client = max_requests_per_client
        self._clock = clock
        self._held: Counter[str] = Counter()
        self._freed: deque[float] = deque(maxlen=_RECENT)
        self.is_draining = False
        """Whether the server stops: what runs is finished, and nothing more is accepted."""

    @property
    def num_held(self) -> int:
        """Places that are held."""
        return self._held.total()

    @contextmanager
    def places(self, client: str, num: int) -> Iterator[None]:
        """Hold places while the block runs.

        Raises:
            ApiError: When the server is stopping, or there are not enough places.
        """
        self._check(client, num)
        self._held[client] += num
        try:
            yield
        finally:
            self._held[client] -= num
            if not self._held[client]:
                del self._held[client]
            self._freed.extend([self._clock()] * num)

    def _check(self, client: str, num: int) -> None:
        if self.is_draining:
            raise ApiError(
                503,
                "The server is stopping: it finishes what it has accepted, and accepts nothing more; ask another one.",
                code="draining",
                retry_after_s=_LONGEST_WAIT_S,
            )
        most = min(self._max_per_client, self._max_requests)
        if num > most:
            raise invalid(f"One request may ask for at most {most} texts, but asks for {num}.", code="too_many_texts")
        if self._held[client] + num > self._max_per_client:
            raise self._full(f"one API key may have {self._max_per_client} texts in work", "client_queue_full")
        if self.num_held + num > self._max_requests:
            raise self._full(f"the server takes {self._max_requests} texts at once", "queue_full")

    def _full(self, law: str, code: str) -> ApiError:
        wait = self.retry_after_s
        message = f"Too many requests: {law}, and all of them are taken; try again in {wait} s."
        return ApiError(429, message, code=code, retry_after_s=wait)

    @property
    def retry_after_s(self) -> int:
        """Seconds after which a place is likely to be free, by the places that were freed lately."""
        if len(self._freed) < 2:
            return 1
        # Up to now: if nothing has been freed for a while, the estimate grows.
        each = (self._clock() - self._freed[0]) / len(self._freed)
        return min(max(math.ceil(each), 1), _LONGEST_WAIT_S)
