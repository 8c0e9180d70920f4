"""An engine that is somewhere else: a vLLM server, behind the same HTTP side as the engine of this package.

In: `GenerationRequest`s, from any thread. Out: their events, in order. One thread runs an event loop; each request is
one stream of vLLM's completions, from whose ids the text is made here, as the engine of this package makes it. The
backbone is a shape without weights: only its tokenizer is used.
"""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import httpx2

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.prefix_cache import has_attention_windows
from ptl_prefix.errors import ConfigError, RequestError
from ptl_prefix.serving import vllm_gateway as gateway
from ptl_prefix.serving.api_error import ApiError
from ptl_prefix.serving.models import StoreLike
from ptl_prefix.serving.request import (
    EngineStatus,
    FinishEvent,
    FinishReason,
    GenerationRequest,
    OnEvent,
    TextEvent,
)
from ptl_prefix.serving.served_bundle import ServedBundle
from ptl_prefix.serving.text_stream import TextStream

_LOG = logging.getLogger(__name__)
_CONNECT_S = 3.0
"""Seconds within which vLLM must take a connection; it may think for longer, up to the request's deadline."""
_HEARTBEAT_S = 0.5


class VllmEngine:
    """Generates text with a vLLM server that runs `TrainedPrefixConnector`.

    Args:
        url: Address of the server.
        store: The bundles; vLLM reads the same ones.
        backbone: The backbone that vLLM serves; a shape suffices.
        api_key: Key that vLLM asks for; `None` if it asks for none.
    """

    def __init__(self, url: str, store: StoreLike, backbone: Backbone, *, api_key: str | None = None) -> None:
        self._url = gateway.base_url(url)
        self._store = store
        self._backbone = backbone
        self._headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        self._thread: threading.Thread | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._probes: dict[str, asyncio.Task[None]] = {}
        self._heartbeat_s = time.monotonic()
        self._num_new_tokens = 0
        self._model = ""
        self.max_model_len = 0
        """Length of vLLM's context window, after `start`."""

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs; vLLM may be down nevertheless, and come back."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Start the thread, and ask vLLM for its version and model.

        Raises:
            ConfigError: When it does not answer, or cannot serve this backbone's prefixes.
        """
        if problems := [*gateway.upstream_problems(self._url), *_backbone_problems(self._backbone)]:
            raise ConfigError(problems)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="vllm", daemon=True)
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._greet(), self._loop).result()
        except (httpx2.HTTPError, ValueError, ApiError) as error:
            self.stop()
            fact = f"does not answer ({type(error).__name__})" if isinstance(error, httpx2.HTTPError) else str(error)
            raise ConfigError([f"`upstream` must be a running vLLM server, but {self._url}: {fact}"]) from error

    def stop(self, *, timeout_s: float = 30.0) -> None:
        """Give up what still runs, and end the thread."""
        if self._thread is not None and self._loop.is_running():
            self._loop.call_soon_threadsafe(self._main.cancel)
            self._thread.join(timeout_s)

    def submit(self, request: GenerationRequest, on_event: OnEvent) -> None:
        """Send a request to vLLM; see `EngineLike`.

        Raises:
            ApiError: When vLLM would serve its bundle wrongly.
            RequestError: When its bundle is not in the store, or the engine has stopped.
        """
        bundle = None if request.version is None else self._bundle(request.version)
        if bundle is not None:
            gateway.check_bundle(bundle)
        if not self.is_alive:
            raise RequestError("The engine must run to take a request, but it has stopped.")
        self._loop.call_soon_threadsafe(self._begin, request, bundle, on_event)

    def cancel(self, request_id: str) -> None:
        """Give up a request, if it still runs: its connection is closed, by which vLLM sees it."""
        if self.is_alive:
            self._loop.call_soon_threadsafe(self._give_up, request_id)

    def attention_on_prefix(self, version: str, prompt_ids: Sequence[int]) -> dict[str, list[float]]:
        """Not known: vLLM does not report attention."""
        raise RequestError("vLLM does not report attention; ask a server with engine=ptl_prefix.")

    def status(self) -> EngineStatus:
        """The engine now; what vLLM holds, its own metrics say."""
        return EngineStatus(
            num_running=len(self._tasks),
            num_waiting=0,
            num_rows=0,
            text_bytes=0,
            prefix_bytes=0,
            num_new_tokens=self._num_new_tokens,
            heartbeat_age_s=time.monotonic() - self._heartbeat_s,
        )

    def _bundle(self, version: str) -> ServedBundle:
        for bundle in self._store.bundles():
            if bundle.version == version:
                return bundle
        raise RequestError(f"A bundle must be offered when its text begins, but version {version} is no longer.")

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._main = self._loop.create_task(self._serve())
        try:
            self._loop.run_until_complete(self._main)
        except asyncio.CancelledError:
            pass
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        timeout = httpx2.Timeout(None, connect=_CONNECT_S)
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=32)
        # The environment names proxies, and a redirect names other servers; only the config says where vLLM is.
        self._client = httpx2.AsyncClient(
            base_url=self._url,
            headers=self._headers,
            timeout=timeout,
            limits=limits,
            trust_env=False,
            follow_redirects=False,
        )
        async with self._client:
            try:
                while True:
                    self._heartbeat_s = time.monotonic()
                    await asyncio.sleep(_HEARTBEAT_S)
            finally:
                tasks = [*self._tasks.values(), *self._probes.values()]
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _greet(self) -> None:
        if (problem := gateway.version_problem(await self._json("GET", "/version"))) is not None:
            raise ValueError(problem)
        self._model, self.max_model_len = gateway.served_model(await self._json("GET", "/v1/models"))

    async def _json(self, method: str, path: str, body: Any = None) -> Any:
        response = await self._client.request(method, path, json=body, timeout=httpx2.Timeout(60.0, connect=_CONNECT_S))
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if response.status_code != 200:
            raise gateway.upstream_error(response.status_code, answer)
        return answer

    def _begin(self, request: GenerationRequest, bundle: ServedBundle | None, on_event: OnEvent) -> None:
        self._tasks[request.request_id] = self._loop.create_task(self._generate(request, bundle, on_event))

    def _give_up(self, request_id: str) -> None:
        if (task := self._tasks.get(request_id)) is not None:
            task.cancel()

    async def _generate(self, request: GenerationRequest, bundle: ServedBundle | None, on_event: OnEvent) -> None:
        """One request from its first byte to its `FinishEvent`, whatever happens."""
        text = _GrowingText(request, self._backbone, on_event)
        reason: FinishReason = "error"
        failure: ApiError | None = None
        try:
            async with asyncio.timeout_at(request.deadline_s):
                reason = await self._read(request, bundle, text)
        except TimeoutError:
            reason = "deadline"
        except asyncio.CancelledError:
            reason = "cancelled"
        except ApiError as error:
            failure = error
        except httpx2.HTTPError as error:
            self._probes.clear()  # what comes back may be started otherwise
            failure = gateway.unreachable(error)
        except Exception:
            _LOG.exception("A request to vLLM failed.")
            failure = ApiError(500, "The gateway failed at this text; its log says why.", code="internal_error")
        finally:
            self._tasks.pop(request.request_id, None)
            num_new = len(text.ids)
            self._num_new_tokens += num_new
            details = () if failure is None else (failure.message, failure.status, failure.code)
            on_event(FinishEvent(request.request_id, reason, num_new, *details))

    async def _read(
        self, request: GenerationRequest, bundle: ServedBundle | None, text: "_GrowingText"
    ) -> FinishReason:
        body = gateway.upstream_body(request, bundle, model=self._model)
        if bundle is not None:
            await self._probe(bundle.version, gateway.probe_body(body))
        said: str | None = None
        reason: FinishReason | None = None
        async with aclosing(self._tokens(body, request.sampling.num_logprobs)) as stream:
            async for tokens in stream:
                gateway.check_prompt_length(tokens.num_prompt_tokens, body)
                said = tokens.finish_reason or said
                reason = reason or text.add(tokens)
                if text.is_stopped:  # by a text, of which vLLM does not know
                    break
        if reason is not None:
            return reason
        if said not in ("stop", "length"):
            self._probes.clear()
            raise gateway.unreachable(EOFError(said))
        text.end()
        return "stop" if said == "stop" else "length"

    async def _probe(self, version: str, body: dict[str, Any]) -> None:
        """Once for each version, and again after vLLM was away: see that the connector is there."""

        async def ask() -> None:
            gateway.check_probe(await self._json("POST", "/v1/completions", body), version)

        probe = self._probes.get(version)
        if probe is None or (probe.done() and (probe.cancelled() or probe.exception() is not None)):
            probe = self._probes[version] = self._loop.create_task(ask())
        await asyncio.shield(probe)

    async def _tokens(
        self, body: dict[str, Any], num_logprobs: int | None
    ) -> AsyncGenerator[gateway.UpstreamTokens, None]:
        async with self._client.stream("POST", "/v1/completions", json=body) as response:
            if response.status_code != 200:
                await response.aread()
                raise gateway.upstream_error(response.status_code, _parsed(response))
            async for line in response.aiter_lines():
                if (tokens := gateway.read_line(line, num_logprobs=num_logprobs)) is not None:
                    yield tokens


class _GrowingText:
    """The text of one request, as its ids come."""

    def __init__(self, request: GenerationRequest, backbone: Backbone, on_event: OnEvent) -> None:
        self._request = request
        self._on_event = on_event
        tokenizer = backbone.tokenizer
        self._stream = TextStream(
            lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)),
            stop=request.sampling.stop,
            is_stripped=request.is_stripped,
        )
        self.ids: list[int] = []

    def add(self, tokens: gateway.UpstreamTokens) -> FinishReason | None:
        """Hand out the text of new ids; the reason to end after them, if there is one."""
        for place, token in enumerate(tokens.token_ids):
            self.ids.append(token)
            is_end = token in self._request.stop_ids
            text = "" if is_end else self._stream.push(token)
            reason = self._reason(is_end=is_end)
            if reason is not None:
                text += self._stream.finish()
            self._on_event(TextEvent(self._request.request_id, text, (token,), tokens.logprobs[place : place + 1]))
            if reason is not None:
                return reason
        return None

    @property
    def is_stopped(self) -> bool:
        """Whether a stop text has been met."""
        return self._stream.is_stopped

    def end(self) -> None:
        """Hand out the text that was held back, when vLLM ended it for a reason of its own."""
        if rest := self._stream.finish():
            self._on_event(TextEvent(self._request.request_id, rest, ()))

    def _reason(self, *, is_end: bool) -> FinishReason | None:
        if is_end or self._stream.is_stopped:
            return "stop"
        return "length" if len(self.ids) >= self._request.sampling.max_new_tokens else None


def _parsed(response: httpx2.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None


def _backbone_problems(backbone: Backbone) -> list[str]:
    if backbone.is_encoder_decoder:
        return [
            f"`backbone` must be decoder-only behind vLLM, but {backbone.name} has an encoder; use engine=ptl_prefix."
        ]
    if has_attention_windows(backbone.model):
        return [
            f"`backbone` must attend to the whole text behind vLLM, where a prefix would leave a window, but "
            f"{backbone.name} has windows; use engine=ptl_prefix."
        ]
    return []
