"""What the gateway sends to vLLM, and how it reads the answer."""

import json
from dataclasses import replace
from typing import Any

import pytest
from support.scripted_engine import embedded_tokenizer, made_up_bundle

from ptl_prefix.serving import vllm_gateway as gateway
from ptl_prefix.serving.api_error import ApiError
from ptl_prefix.serving.request import GenerationRequest, Sampling, TokenLogprobs
from ptl_prefix.serving.served_bundle import ServedBundle

VERSION = "00000000000000aa"


@pytest.fixture(scope="module")
def bundle() -> ServedBundle:
    return made_up_bundle("towns", embedded_tokenizer())


def request(**changes: Any) -> GenerationRequest:
    sampling = Sampling(max_new_tokens=9, temperature=0.5, top_p=0.9, seed=3, num_logprobs=2, stop=("\n",))
    fields: dict[str, Any] = {"request_id": "one", "version": VERSION, "prompt_ids": (7, 8), "stop_ids": (0, 5)}
    return GenerationRequest(sampling=sampling, **fields | changes)


def line(**chunk: Any) -> str:
    return f"data: {json.dumps(chunk)}"


def test_a_prompt_starts_with_placeholders_and_carries_the_version_twice(bundle: ServedBundle) -> None:
    body = gateway.upstream_body(request(), bundle, model="base")

    assert body["prompt"] == [0, 0, 0, 0, 0, 7, 8]
    assert body["kv_transfer_params"] == {"ptl_prefix": VERSION}
    assert body["cache_salt"] == f"ptl-prefix:{VERSION}"
    assert (body["model"], body["max_tokens"], body["seed"], body["logprobs"]) == ("base", 9, 3, 2)
    assert (body["stop_token_ids"], body["ignore_eos"]) == ([0, 5], True)


def test_the_base_gets_its_prompt_alone() -> None:
    body = gateway.upstream_body(request(version=None), None, model="base")

    assert body["prompt"] == [7, 8]
    assert not {"kv_transfer_params", "cache_salt", "echo", "prompt_logprobs", "user", "n", "stop"} & body.keys()


def test_nothing_is_left_to_the_defaults_of_a_file_beside_the_model() -> None:
    body = gateway.upstream_body(request(), None, model="base")

    neutral = {"repetition_penalty": 1, "presence_penalty": 0, "frequency_penalty": 0, "top_k": 0, "min_p": 0}
    assert body.items() >= neutral.items()
    assert {"temperature", "top_p", "max_tokens"} <= body.keys()


def test_a_bundle_that_vllm_would_serve_wrongly_is_refused_with_the_reason(bundle: ServedBundle) -> None:
    gateway.check_bundle(bundle)
    infix = replace(bundle, manifest=replace(bundle.manifest, position_law="infix"))

    with pytest.raises(ApiError, match="position law `shifted`, but is `infix`") as caught:
        gateway.check_bundle(infix)

    assert (caught.value.status, caught.value.code) == (400, "prefix_not_on_vllm")


def test_tokens_and_the_likeliest_others_are_read() -> None:
    others = [{"token_id:11": -0.5, "token_id:4": -0.1, "token_id:5": -0.4}]
    logprobs = {"token_logprobs": [-0.5], "top_logprobs": others}
    choice = {"token_ids": [11], "logprobs": logprobs, "finish_reason": None}

    tokens = gateway.read_line(line(choices=[choice], usage={"prompt_tokens": 7}), num_logprobs=2)

    entry = TokenLogprobs(11, -0.5, ((4, -0.1), (5, -0.4)))
    assert tokens == gateway.UpstreamTokens((11,), (entry,), None, 7)
    assert gateway.read_line("data: [DONE]", num_logprobs=None) is None
    assert gateway.read_line(": ping", num_logprobs=None) is None


@pytest.mark.parametrize("text", ["data: {", "data: []", 'data: {"choices": [{}]}', 'data: {"choices": 3}'])
def test_a_line_of_another_server_is_a_bad_gateway(text: str) -> None:
    with pytest.raises(ApiError) as caught:
        gateway.read_line(text, num_logprobs=None)

    assert (caught.value.status, caught.value.code) == (502, "upstream_unreadable")


def test_an_error_inside_a_stream_is_an_error() -> None:
    with pytest.raises(ApiError, match="Internal server error") as caught:
        gateway.read_line(line(error={"message": "Internal server error", "code": 500}), num_logprobs=None)

    assert caught.value.status == 502


@pytest.mark.parametrize(
    ("status", "expected"), [(400, 400), (422, 422), (429, 429), (401, 502), (404, 502), (500, 502)]
)
def test_an_error_about_the_request_is_passed_on_and_others_are_a_bad_gateway(status: int, expected: int) -> None:
    error = gateway.upstream_error(status, {"error": {"message": "too long", "param": "prompt"}})

    assert error.status == expected
    assert "too long" in error.body["error"]["message"]
    assert error.param == ("prompt" if expected != 502 else None)
    assert error.headers.get("retry-after") == ("1" if status == 429 else None)
    assert gateway.upstream_error(500, None).status == gateway.upstream_error(503, ["?"]).status == 502


def test_a_prompt_that_was_cut_or_prolonged_is_noticed() -> None:
    body = {"prompt": [0, 0, 7]}
    gateway.check_prompt_length(3, body)
    gateway.check_prompt_length(None, body)

    with pytest.raises(ApiError, match="3 tokens that it was sent, but read 4"):
        gateway.check_prompt_length(4, body)


@pytest.mark.parametrize("answer", [{}, None, {"kv_transfer_params": {"ptl_prefix": "0" * 16}}])
def test_a_server_without_the_connector_is_noticed(answer: Any) -> None:
    gateway.check_probe({"kv_transfer_params": {"ptl_prefix": VERSION}}, VERSION)

    with pytest.raises(ApiError, match="--kv-transfer-config") as caught:
        gateway.check_probe(answer, VERSION)

    assert (caught.value.status, caught.value.code) == (502, "upstream_without_connector")


def test_the_probe_is_of_the_same_text() -> None:
    body = gateway.upstream_body(request(), None, model="base")

    probe = gateway.probe_body(body)

    assert (probe["prompt"], probe["stream"], probe["max_tokens"]) == ([7, 8], False, 1)


@pytest.mark.parametrize(
    "url", ["", "vllm:8000", "ftp://vllm", "http://", "http://u:secret@vllm", "http://vllm:x", "http://vllm/?a=1"]
)
def test_what_is_no_address_is_refused_without_its_password(url: str) -> None:
    (problem,) = gateway.upstream_problems(url)

    assert "`upstream` must be a URL" in problem
    assert "secret" not in problem


def test_the_version_and_the_model_are_read() -> None:
    assert gateway.version_problem({"version": "0.32.1"}) is None
    assert "0.31" in str(gateway.version_problem({"version": "0.31.0"}))
    assert gateway.version_problem(["?"]) is not None
    assert gateway.served_model({"data": [{"id": "base", "max_model_len": 512}]}) == ("base", 512)
    assert gateway.upstream_problems("https://vllm:8000/v1") == []
    assert gateway.base_url("https://vllm:8000/v1/") == "https://vllm:8000"
    with pytest.raises(ValueError, match="must offer a model"):
        gateway.served_model({"data": []})
