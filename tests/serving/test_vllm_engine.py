"""The gateway's engine, against vLLM's HTTP interface on loopback."""

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from support.live_server import made_service
from support.scripted_engine import ListedStore, ScriptedEngine, made_up_bundle
from support.scripted_vllm import TOKENS, ScriptedVllm, scripted_vllm
from support.served_requests import Answer, ask

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.spec import BackboneSpec
from ptl_prefix.errors import ConfigError, RequestError
from ptl_prefix.serving.api import CompletionBody
from ptl_prefix.serving.api_error import ApiError
from ptl_prefix.serving.request import EngineLike, GenerationRequest, Sampling
from ptl_prefix.serving.served_bundle import ServedBundle
from ptl_prefix.serving.vllm_engine import VllmEngine


class Store:
    """The bundles `towns` and `infix`, which vLLM would serve wrongly."""

    def __init__(self, backbone: Backbone) -> None:
        towns = made_up_bundle("towns", backbone.tokenizer)  # type: ignore[arg-type]
        manifest = replace(towns.manifest, position_law="infix")
        self._bundles = [towns, replace(towns, name="infix", version="00000000000000bb", manifest=manifest)]

    def bundles(self) -> list[ServedBundle]:
        return self._bundles


@pytest.fixture(scope="module")
def shape() -> Backbone:
    return BackboneSpec(path="tiny_gpt2", name="tiny", dtype="float32").load_shape()


@contextmanager
def gateway(shape: Backbone, url: str, **settings: Any) -> Iterator[VllmEngine]:
    engine = VllmEngine(url, Store(shape), shape, **settings)  # type: ignore[arg-type]
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()
        assert not engine.is_alive


def request(version: str | None = "00000000000000aa", **changes: Any) -> GenerationRequest:
    sampling: dict[str, Any] = {"max_new_tokens": 9, "temperature": 0.0, "top_p": 1.0, "seed": 0, "num_logprobs": 1}
    sampling |= {name: changes.pop(name) for name in list(changes) if name in (*sampling, "stop")}
    ids: dict[str, Any] = {"prompt_ids": (7, 8), "stop_ids": (0,)}
    return GenerationRequest(request_id="one", version=version, sampling=Sampling(**sampling), **ids | changes)


def texts(shape: Backbone, count: int) -> str:
    return str(shape.tokenizer.decode(TOKENS[:count]))


def ended(answer: Answer) -> tuple[Any, ...]:
    assert answer.wait().finish is not None
    finish: Any = answer.finish
    return (finish.reason, *((finish.status, finish.code) if finish.reason == "error" else ()))


def test_tokens_become_text_and_the_prefix_is_asked_for_once(shape: Backbone) -> None:
    with scripted_vllm() as vllm, gateway(shape, f"{vllm.url}/v1", api_key="key") as engine:
        answers = [ask(engine, request()).wait() for _ in range(2)]
        assert engine.max_model_len == 512
        assert engine.status().num_new_tokens == 2 * len(TOKENS)
    for answer in answers:
        assert ended(answer) == ("stop",)
        assert (answer.ids, answer.text) == (list(TOKENS), texts(shape, 3))
        assert answer.logprobs == [-0.25] * len(TOKENS)
    assert [body["stream"] for body in vllm.bodies] == [False, True, True]
    assert all(body["prompt"] == [0, 0, 0, 0, 0, 7, 8] for body in vllm.bodies)
    assert {headers["authorization"] for headers in vllm.headers} == {"Bearer key"}


@pytest.mark.parametrize("model", ["towns", "tiny"])
def test_usage_is_that_of_our_own_engine_and_counts_no_placeholder(shape: Backbone, model: str) -> None:
    store = ListedStore([made_up_bundle("towns", shape.tokenizer)])  # type: ignore[arg-type]
    with scripted_vllm() as vllm:
        engine = VllmEngine(vllm.url, store, shape)
        engine.start()
        whole, streamed = usages(engine, store, model)
        engine.stop()

    own, _ = usages(ScriptedEngine(words=("a",) * len(TOKENS)), store, model)
    assert whole == streamed == own
    num_sent = len(vllm.bodies[-1]["prompt"])
    num_rows = 5 if model == "towns" else 0
    assert whole["prompt_tokens"] == num_sent - num_rows > 0
    assert whole["total_tokens"] == whole["prompt_tokens"] + len(TOKENS)
    assert whole["prompt_tokens_details"] == {"cached_tokens": num_rows, "truncated_tokens": 0}


def usages(engine: EngineLike, store: ListedStore, model: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The `usage` of a whole answer and of a stream."""
    service = made_service(engine, store)

    async def ask(**changes: Any) -> Any:
        values = {"model": model, "prompt": "name : x", "stream_options": {"include_usage": True}, **changes}
        async with service.job(CompletionBody.model_validate(values), "one") as job:
            if not changes:
                return (await job.whole())["usage"]
            return json.loads([line async for line in job.lines()][-2])["usage"]

    return asyncio.run(ask()), asyncio.run(ask(stream=True))


def test_the_base_a_stop_text_and_the_last_token(shape: Backbone) -> None:
    with scripted_vllm() as vllm, gateway(shape, vllm.url) as engine:
        base = ask(engine, request(None, max_new_tokens=2)).wait()
        stopped = ask(engine, request(None, stop=(texts(shape, 2)[-2:],))).wait()
    assert (ended(base), base.text) == (("length",), texts(shape, 2))
    assert (ended(stopped), stopped.text) == (("stop",), texts(shape, 2)[:-2])
    assert vllm.bodies[0]["prompt"] == [7, 8]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ({"has_connector": False}, (502, "upstream_without_connector")),
        ({"refusal": (400, "too long")}, (400, "upstream_refused")),
        ({"refusal": (500, "Internal server error")}, (502, "upstream_failed")),
        ({"breaks_off": True}, (502, "upstream_unreachable")),
        ({"extra_tokens": 1}, (502, "upstream_unreadable")),
    ],
)
def test_what_goes_wrong_at_vllm_is_an_error_of_that_request(
    shape: Backbone, script: dict[str, Any], expected: tuple[int, str]
) -> None:
    with scripted_vllm() as vllm, gateway(shape, vllm.url) as engine:
        vars(vllm).update(script)
        assert ended(ask(engine, request())) == ("error", *expected)
        vars(vllm).update(vars(ScriptedVllm()) | {"url": vllm.url})
        assert ended(ask(engine, request())) == ("stop",)


def test_after_vllm_broke_off_its_connector_is_looked_for_again(shape: Backbone) -> None:
    with scripted_vllm() as vllm, gateway(shape, vllm.url) as engine:
        assert ended(ask(engine, request())) == ("stop",)
        vllm.breaks_off = True
        assert ended(ask(engine, request())) == ("error", 502, "upstream_unreachable")
        vllm.breaks_off = vllm.has_connector = False
        assert ended(ask(engine, request())) == ("error", 502, "upstream_without_connector")


def test_vllm_that_is_down_is_a_bad_gateway_within_seconds(shape: Backbone) -> None:
    with scripted_vllm() as vllm:
        engine = VllmEngine(vllm.url, Store(shape), shape)  # type: ignore[arg-type]
        engine.start()
        assert ended(ask(engine, request())) == ("stop",)
    started_s = time.monotonic()
    assert ended(ask(engine, request())) == ("error", 502, "upstream_unreachable")
    assert time.monotonic() - started_s < 4
    assert engine.is_alive
    engine.stop()


def test_a_cancelled_request_and_one_past_its_deadline_leave_vllm(shape: Backbone) -> None:
    with scripted_vllm() as vllm, gateway(shape, vllm.url) as engine:
        vllm.is_slow.set()
        answer = ask(engine, request(None))
        assert answer.events.get(timeout=20)
        engine.cancel("one")
        assert ended(answer) == ("cancelled",)
        assert vllm.was_left.wait(20)
        assert ended(ask(engine, request(None, deadline_s=time.monotonic() + 0.2))) == ("deadline",)


def test_what_cannot_be_served_is_refused_before_it_is_sent(shape: Backbone) -> None:
    with scripted_vllm() as vllm, gateway(shape, vllm.url) as engine:
        with pytest.raises(ApiError, match="`infix`"):
            ask(engine, request("00000000000000bb"))
        with pytest.raises(RequestError, match="no longer"):
            ask(engine, request("00000000000000cc"))
        assert vllm.bodies == []


def test_a_server_of_another_version_or_none_ends_the_start(shape: Backbone, tiny_folders: Any) -> None:
    with (
        scripted_vllm(version="0.33.0") as vllm,
        pytest.raises(ConfigError, match=r"before 0\.33"),
        gateway(shape, vllm.url),
    ):
        pass
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(ConfigError, match="does not answer"), gateway(shape, url):
            pass
    for family, fact in (("bart", "has an encoder"), ("gemma3_text", "has windows")):
        unfit = BackboneSpec(path=str(tiny_folders[family]), name=family, dtype="float32").load_shape()
        with pytest.raises(ConfigError, match=fact), gateway(unfit, "http://127.0.0.1:9"):
            pass
