"""One request from its body to its answer: a place, the target, the ids, the texts.

In: a checked body and its client. Out: the whole answer, or the lines of its stream. Everything that takes longer than
a look-up runs on one thread of its own: tokenising, routing, and changes of the store, which make tokenisers, too.
"""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import Any, TypeVar

from ptl_prefix.errors import PtlPrefixError
from ptl_prefix.serving.admission import Admission
from ptl_prefix.serving.answers import Answer
from ptl_prefix.serving.api import AttentionBody, ChatBody, CompletionBody
from ptl_prefix.serving.api_error import ApiError, invalid
from ptl_prefix.serving.health import Health
from ptl_prefix.serving.metrics import Metrics
from ptl_prefix.serving.models import Models, StoreLike
from ptl_prefix.serving.planning import Plan, make_plan, num_texts, prompt_of_source, source_text
from ptl_prefix.serving.request import EngineLike, GenerationRequest, Sampling
from ptl_prefix.serving.running_plan import RunningPlan

DONE = "[DONE]"
"""The line that ends a stream."""

_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request may take.

    Args:
        max_requests: Largest number of texts that run or wait.
        max_requests_per_client: The same, of one API key.
        max_body_bytes: Largest body.
        request_timeout_s: Seconds after which a request is given up.
    """

    max_requests: int
    max_requests_per_client: int
    max_body_bytes: int
    request_timeout_s: float


class JobInWork:
    """A body whose texts are being generated.

    Args:
        running: The texts.
        answer: The answer that they become.
        streams_usage: Whether a stream ends with the number of tokens.
    """

    def __init__(self, running: RunningPlan, answer: Answer, *, streams_usage: bool) -> None:
        self._running = running
        self._answer = answer
        self._streams_usage = streams_usage

    @property
    def request_id(self) -> str:
        """Identifier of the answer."""
        return self._answer.request_id

    async def whole(self) -> dict[str, Any]:
        """The answer, once every text has ended."""
        async for index, event in self._running.events():
            self._answer.add(index, event)
        return self._answer.whole()

    async def lines(self) -> AsyncIterator[str]:
        """The data of each server-sent event; a failure is one, too, as the status has been sent already."""
        for chunk in self._answer.opening_chunks():
            yield json.dumps(chunk)
        try:
            async for index, event in self._running.events():
                self._answer.add(index, event)
                if (shown := self._answer.chunk(index, event)) is not None:
                    yield json.dumps(shown)
        except ApiError as error:
            yield json.dumps(error.body)
            return
        if self._streams_usage:
            yield json.dumps(self._answer.usage_chunk())
        yield DONE


class Service:
    """What answers requests, whatever brings them.

    Args:
        engine: The engine.
        models: The base and the bundles.
        store: The store of bundles.
        limits: What one request may take.
        health: The state of the engine.
    """

    def __init__(self, *, engine: EngineLike, models: Models, store: StoreLike, limits: Limits, health: Health) -> None:
        self.models = models
        self.limits = limits
        self.health = health
        self.admission = Admission(
            max_requests=limits.max_requests, max_requests_per_client=limits.max_requests_per_client
        )
        self.metrics = Metrics(engine.status, store.status)
        self._engine = engine
        self._store = store
        self._running: set[RunningPlan] = set()
        # One thread: a tokeniser must not be changed by one while another uses it.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ptl-prefix-tokenise")

    @asynccontextmanager
    async def job(self, body: CompletionBody | ChatBody, client: str) -> AsyncIterator[JobInWork]:
        """Generate the texts of a body; leaving the block gives up what still runs.

        Raises:
            ApiError: When the request is refused.
        """
        started_s = time.monotonic()
        request_id = f"{'chatcmpl' if isinstance(body, ChatBody) else 'cmpl'}-{uuid.uuid4().hex}"
        timeout_s = min(body.timeout_s or self.limits.request_timeout_s, self.limits.request_timeout_s)

        def begin(running: RunningPlan) -> Answer:
            target = self.models.target(body.model, source_text(body))
            plan = make_plan(body, target, request_id=request_id, client=client, deadline_s=started_s + timeout_s)
            running.submit(plan, target.name)
            is_chat, has_logprobs = isinstance(body, ChatBody), body.num_logprobs is not None
            return Answer(request_id=request_id, plan=plan, target=target, is_chat=is_chat, has_logprobs=has_logprobs)

        with self.admission.places(client, num_texts(body)):
            if (problem := self.health.problem()) is not None:
                raise ApiError(503, f"The server cannot generate: {problem}.", code="engine_unhealthy")
            with RunningPlan(self._engine, metrics=self.metrics, started_s=started_s) as running:
                self._running.add(running)
                try:
                    answer = await self._apart(lambda: begin(running))
                    yield JobInWork(running, answer, streams_usage=body.streams_usage)
                finally:
                    self._running.discard(running)

    async def prefix_attention(self, body: AttentionBody, client: str) -> dict[str, Any]:
        """How much a source attends to the prefix of a task.

        Raises:
            ApiError: When the request is refused.
        """

        def measure() -> dict[str, Any]:
            target = self.models.target(body.model, body.prompt)
            if target.bundle is None:
                raise invalid("`model` must be a task, as the backbone alone has no prefix.", param="model")
            ids = prompt_of_source(body.prompt, target)
            try:
                sites = self._engine.attention_on_prefix(target.bundle.version, ids)
            except PtlPrefixError as error:
                raise invalid(str(error), param="model", code="no_prefix_attention") from error
            layers = [share for shares in sites.values() for share in shares]
            return {"object": "prefix_attention", "model": target.model_id, "mean": fmean(layers), "layers": sites}

        with self.admission.places(client, 1):
            if (problem := self.health.problem()) is not None:
                raise ApiError(503, f"The server cannot compute: {problem}.", code="engine_unhealthy")
            return await self._apart(measure)

    def cut_off(self) -> None:
        """End every text that still runs, with an error that says so."""
        for running in self._running:
            running.cut_off()

    async def load(self, name: str) -> dict[str, Any]:
        """Offer a bundle of the folder; its card."""
        await self._changed(self._store.load, name)
        return self.models.card(name)

    async def unload(self, name: str) -> None:
        """Stop offering a bundle; what runs on it goes on."""
        await self._changed(self._store.unload, name)

    async def rescan(self) -> None:
        """Look again at what is in the folder of bundles."""
        await self._apart(self._store.rescan)

    async def self_test(self) -> None:
        """Generate two tokens with the base, and note whether that worked."""
        base = self.models.base
        try:
            with RunningPlan(self._engine, metrics=self.metrics, started_s=time.monotonic()) as running:
                await self._apart(lambda: running.submit(self._test_plan(), base.name))
                async for _ in running.events():
                    pass
        except Exception:
            self.health.self_test = "failed"
            raise
        self.health.self_test = "passed"

    def _test_plan(self) -> Plan:
        prompter = self.models.base.prompter
        request = GenerationRequest(
            request_id="self-test",
            version=None,
            prompt_ids=tuple(prompter.encode_source("Hello")),
            stop_ids=prompter.stop_ids,
            sampling=Sampling(max_new_tokens=2, temperature=0.0, top_p=1.0, seed=0),
            deadline_s=time.monotonic() + self.limits.request_timeout_s,
        )
        return Plan((request,), ())

    async def _changed(self, change: Callable[[str], Any], name: str) -> None:
        try:
            await self._apart(lambda: change(name))
        except PtlPrefixError as error:
            raise ApiError(404, str(error), param="name", code="prefix_not_loaded") from error

    async def _apart(self, work: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)
