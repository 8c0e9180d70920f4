"""Connections that a client keeps for nothing: silent ones, unread ones, and too many."""

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from support.live_server import KEY, LiveServer, live_server, wait_until
from support.scripted_engine import ScriptedEngine

from ptl_prefix.serving.http_connection import WatchedConnection

HEAD = b"GET /health HTTP/1.1\r\nhost: a\r\n"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveServer]:
    for name, value in {"head_s": 0.4, "unread_s": 0.4, "most": 4}.items():
        monkeypatch.setattr(WatchedConnection, name, value)
    with live_server(engine=ScriptedEngine(words=["word " * 20_000] * 100)) as server:
        wait_until(lambda: not server.process.server_state.connections)
        yield server


@contextmanager
def connected(server: LiveServer, **options: int) -> Iterator[socket.socket]:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.socket() as client:
        for name, value in options.items():
            client.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
        client.settimeout(20)
        client.connect((host, int(port)))
        yield client


def is_cut_off(client: socket.socket) -> bool:
    """Whether the server ends the connection; without, it takes the time of the socket."""
    try:
        while client.recv(1 << 16):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


@pytest.mark.parametrize("sent", [b"", HEAD, HEAD + b"\r\n" + HEAD, b"\r\n"])
def test_a_client_that_sends_no_whole_head_is_cut_off(server: LiveServer, sent: bytes) -> None:
    with connected(server) as client:
        client.sendall(sent)
        assert is_cut_off(client)
    wait_until(lambda: not server.process.server_state.connections)


def completion(**values: Any) -> bytes:
    body = json.dumps({"model": "towns", "prompt": "a", **values}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {KEY}\r\n"
    return f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def test_a_request_may_take_longer_than_its_head_and_the_next_head_may_not(server: LiveServer) -> None:
    server.engine.words = ("slow",) * 8
    server.engine.seconds_per_token = 0.1
    with connected(server) as client:
        for _ in range(2):
            client.sendall(completion())
            with http.client.HTTPResponse(client) as answer:
                answer.begin()
                assert (answer.status, len(answer.read()) > 0) == (200, True)
        client.sendall(HEAD)
        assert is_cut_off(client)


def test_an_answer_that_nobody_reads_gives_its_place_back(server: LiveServer) -> None:
    with connected(server, SO_RCVBUF=4096) as client:
        client.sendall(completion(stream=True, max_tokens=200))
        wait_until(lambda: server.service.admission.num_held == 1)
        wait_until(lambda: server.service.admission.num_held == 0)
        wait_until(lambda: not server.process.server_state.connections)


def test_one_connection_too_many_is_cut_off_and_the_others_are_answered(server: LiveServer) -> None:
    with connected(server) as one, connected(server) as two, connected(server) as three, connected(server) as four:
        wait_until(lambda: len(server.process.server_state.connections) == 4)
        with connected(server) as five:
            five.sendall(HEAD + b"\r\n")
            assert is_cut_off(five)
        for client in (one, two, three, four):
            client.sendall(HEAD + b"\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200")
