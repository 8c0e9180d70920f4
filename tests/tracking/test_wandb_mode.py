import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Event, Thread

import pytest

from ptl_prefix.tracking.wandb_mode import is_reachable, resolve_mode


@contextmanager
def server(status: int, *, thinks: bool = False) -> Iterator[str]:
    """A server with one response; with `thinks`, it responds too late."""
    over = Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            if thinks:
                over.wait(60)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = Thread(target=http.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_port}"
        finally:
            over.set()
            http.shutdown()
            thread.join()


@pytest.mark.parametrize(("status", "expected"), [(200, True), (400, True), (401, True), (500, False), (503, False)])
def test_a_server_is_reachable_unless_it_returns_a_server_error(status: int, expected: bool) -> None:
    with server(status) as url:
        assert is_reachable(url, within_s=5) is expected


def test_a_slow_server_is_not_reachable() -> None:
    with server(200, thinks=True) as url:
        began = time.monotonic()
        assert not is_reachable(url, within_s=0.2)
        assert time.monotonic() - began < 20


def test_a_closed_port_is_not_reachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    assert not is_reachable(f"http://127.0.0.1:{port}")


def test_an_unknown_host_is_not_reachable() -> None:
    assert not is_reachable("https://api.example.org")


@pytest.mark.parametrize(
    ("environment", "mode"),
    [
        ({"WANDB_DISABLED": "true"}, "none"),
        ({"WANDB_DISABLED": "1", "WANDB_MODE": "online"}, "none"),
        ({"WANDB_DISABLED": "false"}, "auto"),
        ({"WANDB_DISABLED": ""}, "auto"),
        ({"WANDB_MODE": "offline"}, "offline"),
    ],
)
def test_the_environment_decides_and_disabled_wins(environment: dict[str, str], mode: str) -> None:
    assert resolve_mode("auto", environment) == mode
