"""The texts of one body while the engine generates them.

In: a `Plan`. Out: the events of its texts, in the order in which they come, on the event loop; leaving the block gives
up what still runs, whether the client is gone, a text has failed, or all is done.
"""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from ptl_prefix.errors import PtlPrefixError, RequestError
from ptl_prefix.serving.api_error import ApiError, invalid
from ptl_prefix.serving.metrics import Metrics
from ptl_prefix.serving.planning import Plan
from ptl_prefix.serving.request import INTERNAL_ERROR, EngineLike, Event, FinishEvent, TextEvent

_logger = logging.getLogger("ptl_prefix.serving")


class RunningPlan:
    """A plan in work, made on the event loop; use it as a context manager.

    Args:
        engine: The engine.
        metrics: What counts tokens and times.
        started_s: `time.monotonic()` when the body had been read.
    """

    def __init__(self, engine: EngineLike, *, metrics: Metrics, started_s: float) -> None:
        self._engine = engine
        self._metrics = metrics
        self._started_s = started_s
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._plan = Plan((), ())
        self._model = ""
        self._indices: dict[str, int] = {}
        self._running: set[int] = set()
        self._last_s: dict[int, float] = {}
        self._given_up = threading.Event()

    def submit(self, plan: Plan, model: str) -> None:
        """Hand the texts to the engine; called on a thread of its own, as the engine may read a bundle from disk.

        Args:
            plan: The texts to generate.
            model: Name of the model in the metrics.

        Raises:
            ApiError: When the engine refuses a text.
        """
        self._plan, self._model = plan, model
        self._indices = {request.request_id: index for index, request in enumerate(plan.requests)}
        for index, request in enumerate(plan.requests):
            if self._given_up.is_set():
                return
            self._running.add(index)
            try:
                self._engine.submit(request, self._receive)
            except PtlPrefixError as error:
                self._running.discard(index)
                raise self._refusal(error) from error
            if self._given_up.is_set():  # meanwhile
                self._engine.cancel(request.request_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._given_up.set()
        for index in list(self._running):
            self._engine.cancel(self._plan.requests[index].request_id)
            self._metrics.finished(self._model, "cancelled", num_prompt_tokens=0, num_new_tokens=0)

    def cut_off(self) -> None:
        """Let the engine end the texts, so that the client learns of it."""
        for index in list(self._running):
            self._engine.cancel(self._plan.requests[index].request_id)

    async def events(self) -> AsyncIterator[tuple[int, Event]]:
        """The events, each with the index of its text.

        Raises:
            ApiError: When a text was given up at its deadline, or failed.
        """
        while self._running:
            event = await self._events.get()
            index = self._indices[event.request_id]
            if isinstance(event, TextEvent):
                self._time(index, event)
            else:
                self._running.discard(index)
                self._count(index, event)
                _raise_failure(event)
            yield index, event

    def _receive(self, event: Event) -> None:
        """Take an event from the engine's thread."""
        # After a forced stop the loop may be closed while the engine still hands out events.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    def _refusal(self, error: PtlPrefixError) -> ApiError:
        if not self._engine.is_alive:
            return ApiError(503, "The server cannot generate: its engine has stopped.", code="engine_unhealthy")
        if isinstance(error, RequestError):
            return invalid(str(error), code="request_too_large")
        # The sentence may name a path of this machine, which is not for a client.
        _logger.error("A bundle could not be used: %s", error)
        return ApiError(503, "The bundle cannot be used now; the server's log says why.", code="bundle_unusable")

    def _time(self, index: int, event: TextEvent) -> None:
        if not event.token_ids:
            return
        now, before = time.monotonic(), self._last_s.get(index)
        self._last_s[index] = now
        if before is None:
            self._metrics.first_token(self._model, now - self._started_s)
        else:
            self._metrics.next_tokens(self._model, now - before, len(event.token_ids))

    def _count(self, index: int, event: FinishEvent) -> None:
        num_prompt_tokens = len(self._plan.requests[index].prompt_ids)
        self._metrics.finished(
            self._model, event.reason, num_prompt_tokens=num_prompt_tokens, num_new_tokens=event.num_new_tokens
        )


def _raise_failure(event: FinishEvent) -> None:
    if event.reason == "deadline":
        raise ApiError(
            504,
            "The text was not finished by the request's deadline, and was given up; allow it more time with "
            "`timeout_s`, up to the server's own limit, or fewer tokens with `max_tokens`.",
            code="deadline_exceeded",
        )
    if event.reason == "error":
        _logger.error("A text failed: %s", event.message)
        if event.code == INTERNAL_ERROR:
            raise ApiError(500, "The engine failed at this text; the server's log says why.", code=INTERNAL_ERROR)
        raise ApiError(event.status, event.message, code=event.code)  # a failure that the client may know, by design
    if event.reason == "cancelled":
        raise ApiError(503, "The server gave up the text, as it is stopping.", code="draining")
