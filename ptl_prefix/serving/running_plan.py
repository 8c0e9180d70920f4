"""The texts of one body while the engine generates them.

In: a `Plan`. Out: the events of its texts, in the order in which they come, on the event loop; leaving the block gives up
what still runs, whether the client is gone, a text has failed, or all is done.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from ptl_prefix.serving.api_error import ApiError
from ptl_prefix.serving.metrics import Metrics
from ptl_prefix.serving.planning import Plan
from ptl_prefix.serving.request import EngineLike, Event, FinishEvent, TextEvent


class RunningPlan:
    """A plan in work; use it as a context manager.

    Args:
        engine: The engine.
        plan: The texts to generate.
        model: Name of the model in the metrics.
        metrics: What counts tokens and times.
        started_s: `time.monotonic()` when the body had been read.
    """

    def __init__(self, engine: EngineLike, plan: Plan, *, model: str, metrics: Metrics, started_s: float) -> None:
        self._engine = engine
        self._plan = plan
        self._model = model
        self._metrics = metrics
        self._started_s = started_s
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._last_s: dict[int, float] = {}
        self._indices = {request.request_id: index for index, request in enumerate(plan.requests)}
        self._running: set[int] = set()

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()

        def receive(event: Event) -> None:
            # After a forced stop the loop may be closed while the engine still hands out events.
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._events.put_nowait, event)

        try:
            for index, request in enumerate(self._plan.requests):
                self._engine.submit(request, receive)
                self._running.add(index)
        except BaseException:
            self._give_up()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_up()

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

    def _give_up(self) -> None:
        for index in self._running:
            self._engine.cancel(self._plan.requests[index].request_id)
            self._metrics.finished(self._model, "cancelled", num_prompt_tokens=0, num_new_tokens=0)
        self._running.clear()


def _raise_failure(event: FinishEvent) -> None:
    if event.reason == "deadline":
        raise ApiError(
            504,
            "The text was not finished by the request's deadline, and was given up; allow it more time with "
            "`timeout_s`, up to the server's own limit, or fewer tokens with `max_tokens`.",
            code="deadline_exceeded",
        )
    if event.reason == "error":
        raise ApiError(event.status, event.message or "The engine failed at this text.", code=event.code)
    if event.reason == "cancelled":
        raise ApiError(503, "The server gave up the text, as it is stopping.", code="draining")
