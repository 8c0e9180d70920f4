"""The server on loopback, in front of a scripted engine: what is closed, refused, streamed, cancelled and drained."""

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from support.live_server import ADMIN_KEY, LiveServer, live_server, wait_until
from support.scripted_engine import WORDS, ScriptedEngine

TEXT = "".join(WORDS)
ASK: dict[str, Any] = {"model": "towns", "prompt": "name : x"}


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with live_server(limits={"max_requests": 8, "max_requests_per_client": 6}) as server:
        yield server


@pytest.fixture
def client(server: LiveServer) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client
    server.engine.is_paused = False
    wait_until(lambda: server.service.admission.num_held == 0)


def events_of(answer: httpx.Response) -> list[str]:
    lines = [line for line in answer.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines)
    return [line.removeprefix("data: ") for line in lines]


def test_every_route_is_closed_but_health_and_the_page(server: LiveServer) -> None:
    with server.client(None) as stranger, server.client("wrong-key-0123456789") as guesser:
        paths = [
            "/ready",
            "/metrics",
            "/openapi.json",
            "/v1/models",
            "/v1/models/towns",
            "/nope",
            "/docs",
            "/health/",
        ]
        for one in (stranger, guesser):
            answers = [one.get(path) for path in paths]
            answers += [one.post(path, json=ASK) for path in ("/v1/completions", "/v1/load_prefix", "/health/x")]
            assert {answer.status_code for answer in answers} == {401}
            assert {answer.json()["error"]["code"] for answer in answers} == {"invalid_api_key"}
            assert [one.get(path).status_code for path in ("/", "/health")] == [200, 200]
    assert server.engine.requests[1:] == []  # but for the generation at the start


def test_a_text_with_its_usage(server: LiveServer, client: httpx.Client) -> None:
    answer = client.post("/v1/completions", json={**ASK, "logprobs": 1, "max_tokens": 4})

    body = answer.json()
    assert body["choices"][0]["text"] == "The Old Mill is"
    assert body["choices"][0]["finish_reason"] == "length"
    assert [len(body["choices"][0]["logprobs"][key]) for key in ("tokens", "token_logprobs", "top_logprobs")] == [4] * 3
    assert body["model"] == "towns@00000000000000aa"
    assert body["usage"] == {
        "prompt_tokens": len(server.engine.requests[-1].prompt_ids),  # the prefix's rows are no part of the text
        "completion_tokens": 4,
        "total_tokens": len(server.engine.requests[-1].prompt_ids) + 4,
        "prompt_tokens_details": {"cached_tokens": 5, "truncated_tokens": 0},
    }
    assert answer.headers["x-request-id"] == body["id"]


def test_attention_on_the_prefix(client: httpx.Client, server: LiveServer) -> None:
    answer = client.post("/v1/prefix_attention", json=ASK)

    assert answer.status_code == 200
    assert (answer.json()["mean"], answer.json()["layers"]) == (0.5, {"decoder_self": [0.25, 0.75]})
    assert answer.json()["model"].startswith("towns@")
    base = server.service.models.base.name
    for body in ({**ASK, "model": base}, {**ASK, "model": "nope"}, {**ASK, "n": 2}):
        assert client.post("/v1/prefix_attention", json=body).status_code in (400, 404)


def test_a_stream_says_the_same_as_a_whole_answer(client: httpx.Client) -> None:
    body = {
        "model": "towns",
        "messages": [{"role": "user", "content": "x"}],
        "n": 2,
        "stream_options": {"include_usage": True},
    }
    with client.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        *chunks, done = events_of(answer)
    whole = client.post("/v1/chat/completions", json=body).json()

    assert done == "[DONE]"
    read = [json.loads(chunk) for chunk in chunks]
    for index in range(2):
        parts = [one for chunk in read for one in chunk["choices"] if one["index"] == index]
        assert parts[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(part["delta"].get("content", "") for part in parts) == TEXT
        assert parts[-1]["finish_reason"] == whole["choices"][index]["finish_reason"] == "stop"
        assert whole["choices"][index]["message"]["content"] == TEXT
    assert read[-1]["choices"] == []
    assert read[-1]["usage"] == whole["usage"]


def test_refusals_have_openais_form(client: httpx.Client, server: LiveServer) -> None:
    url = "/v1/completions"
    refused = {
        404: client.post(url, json={**ASK, "model": "../towns"}),
        405: client.get(url),
        400: client.post(url, json={**ASK, "max_tokens": 0}),
        413: client.post(url, json={**ASK, "prompt": "a" * 300_000}),
        415: client.post(url, content=json.dumps(ASK), headers={"content-type": "text/plain"}),
        403: client.post("/v1/load_prefix", json={"name": "towns"}),
    }
    for status, answer in refused.items():
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert refused[400].json()["error"]["param"] == "max_tokens"
    assert client.get("/v1/models/nope").status_code == client.get("/nope").status_code == 404
    text = client.get("/metrics").text
    assert 'ptl_prefix_rejections_total{reason="model_not_found"}' in text
    assert "../towns" not in text
    assert 'ptl_prefix_time_to_first_token_seconds_count{model="towns"}' in text


def test_an_admin_takes_a_task_out_and_puts_it_back(server: LiveServer, client: httpx.Client) -> None:
    with server.client(ADMIN_KEY) as admin:
        assert admin.post("/v1/unload_prefix", json={"name": "rivers"}).json()["deleted"] is True
        assert client.post("/v1/completions", json={**ASK, "model": "rivers"}).status_code == 404
        assert admin.post("/v1/unload_prefix", json={"name": "rivers"}).status_code == 404
        assert admin.post("/v1/load_prefix", json={"name": "../rivers"}).status_code == 400
        assert admin.post("/v1/load_prefix", json={"name": "lakes"}).status_code == 404
        assert admin.post("/v1/load_prefix", json={"name": "rivers"}).json()["id"] == "rivers"
    assert client.post("/v1/completions", json={**ASK, "model": "rivers"}).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_gives_up_its_text(server: LiveServer, client: httpx.Client, stream: bool) -> None:
    server.engine.is_paused = True
    before = len(server.engine.cancelled)
    with server.client() as leaving, pytest.raises(httpx.ReadTimeout):
        leaving.post("/v1/completions", json={**ASK, "n": 2, "stream": stream}, timeout=0.3)

    wait_until(lambda: len(server.engine.cancelled) == before + 2)
    wait_until(lambda: server.service.admission.num_held == 0)


def test_more_than_a_client_may_have_is_429_and_another_client_is_answered(
    server: LiveServer, client: httpx.Client
) -> None:
    server.engine.is_paused = True
    waiting = threading.Thread(target=client.post, args=("/v1/completions",), kwargs={"json": {**ASK, "n": 6}})
    waiting.start()
    wait_until(lambda: server.service.admission.num_held == 6)

    with server.client(ADMIN_KEY) as other, server.client() as same:
        refused = same.post("/v1/completions", json=ASK)
        full = other.post("/v1/completions", json={**ASK, "n": 3})
        server.engine.is_paused = False
        answered = other.post("/v1/completions", json=ASK)
    waiting.join()

    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "client_queue_full")
    assert int(refused.headers["retry-after"]) >= 1
    assert (full.status_code, full.json()["error"]["code"]) == (429, "queue_full")
    assert answered.status_code == 200
    assert {request.client for request in server.engine.requests[-7:]} == {"environment", "environment-admin"}


def test_a_deadline_ends_a_text(server: LiveServer, client: httpx.Client) -> None:
    server.engine.seconds_per_token = 0.05
    late = client.post("/v1/completions", json={**ASK, "timeout_s": 0.12})
    with client.stream("POST", "/v1/completions", json={**ASK, "timeout_s": 0.12, "stream": True}) as answer:
        events = events_of(answer)
    server.engine.seconds_per_token = 0.0

    assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert json.loads(events[-1])["error"]["code"] == "deadline_exceeded"
    assert json.loads(events[0])["choices"][0]["text"] == "The"


def test_a_failure_of_the_engine_is_500_and_its_silence_unhealthy(server: LiveServer, client: httpx.Client) -> None:
    server.engine.error = "The bundle in /srv/secret is damaged."
    failed = client.post("/v1/completions", json=ASK)
    server.engine.error = None
    assert (failed.status_code, failed.json()["error"]["code"]) == (500, "engine_error")
    assert "/srv/secret" not in failed.text  # it is logged

    server.engine.submit = None  # type: ignore[assignment, method-assign]
    broken = client.post("/v1/completions", json=ASK)
    del server.engine.submit
    assert (broken.status_code, broken.json()["error"]["code"]) == (500, "internal_error")

    assert client.get("/ready").json() == {"status": "ready"}
    for change in ({"heartbeat_age_s": 60.0}, {"is_dead": True}):
        vars(server.engine).update(change)
        assert [client.get(path).status_code for path in ("/health", "/ready")] == [503, 503]
        assert client.post("/v1/completions", json=ASK).status_code == 503
        vars(server.engine).update({"heartbeat_age_s": 0.0, "is_dead": False})
    assert client.get("/health").status_code == 200


def test_a_server_that_stops_finishes_what_it_has_and_accepts_nothing_more() -> None:
    with live_server(engine=ScriptedEngine(seconds_per_token=0.05), rescan_every_s=0.05) as server:
        wait_until(lambda: server.store.num_rescans > 1)
        wait_until(lambda: server.service.health.self_test == "passed")
        answers: list[httpx.Response] = []

        def ask() -> None:
            with server.client() as client:
                answers.append(client.post("/v1/completions", json=ASK))

        running = threading.Thread(target=ask)
        running.start()
        wait_until(lambda: server.service.admission.num_held == 1)

        server.process.stop()
        with server.client() as late:
            refused = late.post("/v1/completions", json=ASK)
            assert late.get("/ready").status_code == 503
            assert late.get("/health").status_code == 200
        running.join()

        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        assert "retry-after" in refused.headers
        assert answers[0].json()["choices"][0]["text"] == TEXT
        wait_until(lambda: server.process.should_exit)
        assert server.process.exit_code == 0


def test_what_is_not_finished_after_the_drain_timeout_is_cut_off() -> None:
    with live_server(drain_timeout_s=0.2) as server:
        server.engine.is_paused = True
        with server.client() as client:
            threading.Timer(0.3, server.process.stop).start()
            cut = client.post("/v1/completions", json=ASK)
        assert (cut.status_code, cut.json()["error"]["code"]) == (503, "draining")
        assert len(server.engine.cancelled) == 1
        assert server.process.exit_code == 1


def test_a_slow_reader_does_not_hold_up_others(server: LiveServer, client: httpx.Client) -> None:
    with client.stream("POST", "/v1/completions", json={**ASK, "stream": True}):
        begun = time.monotonic()
        with server.client() as other:
            assert other.post("/v1/completions", json=ASK).status_code == 200
        assert time.monotonic() - begun < 15
