"""The engine: one thread that owns the backbone and generates for all requests at once.

In: `GenerationRequest`s, from any thread. Out: their events, in order. Each round takes in what has arrived, asks the
scheduler, reads a chunk of prompts, steps every other row by one token, and hands out the text.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.errors import PtlPrefixError, RequestError
from ptl_prefix.serving.generation import Generation
from ptl_prefix.serving.job import Decision, Job
from ptl_prefix.serving.prefix_store import PrefixStore
from ptl_prefix.serving.request import (
    EngineStatus,
    FinishEvent,
    FinishReason,
    GenerationRequest,
    OnEvent,
    TextEvent,
)
from ptl_prefix.serving.row_groups import RowGroups
from ptl_prefix.serving.sampling import choose_tokens
from ptl_prefix.serving.scheduler import Scheduler, SchedulerSettings

Result = TypeVar("Result")

_LOG = logging.getLogger(__name__)
_IDLE_S = 0.5
"""Longest sleep without work; the heartbeat is renewed after it."""
_GATHER_S = 0.005
"""Wait of an idle engine after a request has arrived: requests that arrive together are read in one forward pass."""


class Engine:
    """Generates text for requests of many tasks in one continuous batch.

    Args:
        backbone: The frozen base. It belongs to the engine until `stop`.
        store: The bundles.
        settings: Bounds of the batch.
    """

    def __init__(self, backbone: Backbone, store: PrefixStore, settings: SchedulerSettings) -> None:
        self._backbone = backbone
        self._store = store
        self._groups = RowGroups(backbone, store)
        self._scheduler = Scheduler(settings, self._groups.bytes_for)
        self._generations: dict[str, Generation] = {}
        self._inbox: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_stopping = False
        self._is_closed = True
        self._heartbeat_s = time.monotonic()
        self._num_new_tokens = 0
        start_ids = backbone.prompter(PromptFormat()).decoder_start_ids
        self._decoder_start_ids = None if start_ids is None else tuple(start_ids)
        self.failure: BaseException | None = None
        """What ended the thread, if it was not `stop`."""

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Start the thread."""
        self._heartbeat_s = time.monotonic()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def stop(self, *, timeout_s: float = 30.0) -> None:
        """Cancel what still runs, and end the thread."""
        with self._wake:
            self._is_stopping = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def submit(self, request: GenerationRequest, on_event: OnEvent) -> None:
        """Queue a request; see `EngineLike`."""
        bundle = None if request.version is None else self._store.hold(request.version)
        try:
            self._check(request)
            generation = Generation(request, bundle, on_event, self._backbone, self._decoder_start_ids)
            job = generation.job(arrived_s=time.monotonic())
            if (problem := self._scheduler.problem_of(job)) is not None:
                raise RequestError(problem)
            if not self._post(lambda: self._take_in(generation, job)):
                raise RequestError("The engine must run to take a request, but it has stopped; start the server again.")
        except BaseException:
            if request.version is not None:
                self._store.release(request.version)
            raise

    def cancel(self, request_id: str) -> None:
        """Give up a request, if it still runs."""
        self._post(lambda: self._end(request_id, "cancelled"))

    def compute(self, task: Callable[[], Result], *, timeout_s: float = 60.0) -> Result:
        """Run something that needs the bare backbone between two rounds, and wait for its result.

        Raises:
            RequestError: When the engine has stopped, or the result does not come in time.
        """
        found: Future[Result] = Future()

        def run() -> None:
            try:
                self._groups.detach()
                found.set_result(task())
            except BaseException as error:  # it is the caller's, not the engine's
                found.set_exception(error)

        if not self._post(run):
            raise RequestError("The engine must run to compute, but it has stopped; start the server again.")
        try:
            return found.result(timeout_s)
        except TimeoutError as error:
            raise RequestError(f"The engine must compute within {timeout_s:g} s, but has not; ask again.") from error

    def attention_on_prefix(self, version: str, prompt_ids: Sequence[int]) -> dict[str, list[float]]:
        """The attention of a prompt on the prefix of a version; see `EngineLike`."""
        bundle = self._store.hold(version)
        try:
            if bundle.is_exclusive or not bundle.num_rows:
                raise RequestError(
                    f"A bundle must be a prefix for the attention on it to be measured, but {bundle.model_id} is of "
                    f"{bundle.manifest.method}."
                )
            return self.compute(lambda: self._groups.attention_on_prefix(version, prompt_ids))
        finally:
            self._store.release(version)

    def status(self) -> EngineStatus:
        """The engine now."""
        return EngineStatus(
            num_running=self._scheduler.num_running,
            num_waiting=self._scheduler.num_waiting,
            num_rows=self._scheduler.settings.max_rows,
            text_bytes=self._groups.num_bytes,
            prefix_bytes=self._store.status().prefix_bytes,
            num_new_tokens=self._num_new_tokens,
            heartbeat_age_s=time.monotonic() - self._heartbeat_s,
        )

    def _check(self, request: GenerationRequest) -> None:
        if not request.prompt_ids:
            raise RequestError("A prompt must have at least one token, but has none; send some text.")
        if request.sampling.max_new_tokens < 1:
            raise RequestError(f"`max_tokens` must be >= 1, but is {request.sampling.max_new_tokens}.")

    def _post(self, task: Callable[[], None]) -> bool:
        """Have the thread do something before its next round; returns whether it will."""
        with self._wake:
            if self._is_closed:
                return False
            self._inbox.append(task)
            self._wake.notify()
            return True

    def _run(self) -> None:
        try:
            while not self._is_stopping:
                self._heartbeat_s = time.monotonic()
                self._round()
        except BaseException as error:
            self.failure = error
            _LOG.exception("The engine's thread ended.")
        finally:
            with self._wake:
                self._is_closed = True
            while self._inbox:  # requests that arrived until now get their last event, too
                self._inbox.popleft()()
            reason: FinishReason = "cancelled" if self.failure is None else "error"
            for request_id in list(self._generations):
                self._end(request_id, reason, "" if self.failure is None else "The engine failed.")
            self._groups.close()

    def _round(self) -> None:
        if self._inbox and not self._generations:
            time.sleep(_GATHER_S)
        while self._inbox:
            self._inbox.popleft()()
        decision = self._scheduler.decide(time.monotonic())
        if not decision.is_idle:
            self._carry_out(decision)
            return
        with self._wake:
            if not self._inbox and not self._is_stopping:
                self._wake.wait(_IDLE_S)

    def _carry_out(self, decision: Decision) -> None:
        for request_id, reason in decision.given_up:
            self._finish(self._generations.pop(request_id), reason)
        for request_id in decision.preempted:
            self._groups.leave(self._generations[request_id])
        self._groups.reserve([self._generations[one] for one in decision.admitted])
        for request_id in decision.admitted:
            self._try(request_id, self._groups.join)
        reading = [(self._generations[one], count) for one, count in decision.read if one in self._generations]
        if reading and (ended := self._groups.read(decision.group, reading)):
            self._generate([generation for generation, _ in ended], torch.stack([logits for _, logits in ended]))
        stepping = [self._generations[one] for one in decision.step if one in self._generations]
        if stepping:
            self._generate(stepping, self._groups.step(decision.group, stepping))

    def _try(self, request_id: str, action: Callable[[Generation], None]) -> None:
        """One request's own failure, such as a damaged bundle, ends that request alone."""
        try:
            action(self._generations[request_id])
        except PtlPrefixError as error:
            self._end(request_id, "error", str(error))

    def _generate(self, generations: list[Generation], logits: Float[Tensor, "requests vocabulary"]) -> None:
        """Choose the next token of some requests, and send its text."""
        samplers = [generation.sampler for generation in generations]
        tokens = choose_tokens(logits, samplers, [generation.allowed_ids for generation in generations])
        self._num_new_tokens += len(tokens)
        ended = []
        for generation, token, row in zip(generations, tokens, logits.unbind(), strict=True):
            text, logprobs = generation.add(token, row)
            reason = generation.finish_reason
            if reason is not None:
                text += generation.rest()
            generation.on_event(TextEvent(generation.request_id, text, (token,), logprobs))
            if reason is not None:
                ended.append((generation, reason))
        for generation, reason in reversed(ended):  # the last row first: a row that leaves is replaced by the last one
            self._end(generation.request_id, reason)

    def _take_in(self, generation: Generation, job: Job) -> None:
        self._generations[generation.request_id] = generation
        self._scheduler.add(job)

    def _end(self, request_id: str, reason: FinishReason, message: str = "") -> None:
        generation = self._generations.pop(request_id, None)
        if generation is not None:
            self._scheduler.remove(request_id)
            self._finish(generation, reason, message)

    def _finish(self, generation: Generation, reason: FinishReason, message: str = "") -> None:
        self._groups.leave(generation)
        if generation.request.version is not None:
            self._store.release(generation.request.version)
        generation.on_event(FinishEvent(generation.request_id, reason, len(generation.new_ids), message))
