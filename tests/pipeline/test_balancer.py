"""Two servers behind nginx, with the configuration of the documentation: a task stays on its server."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from support.live_server import KEY

NGINX = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
PAGE = Path(__file__).parents[2] / "docs/how-to/several_servers.md"
TASKS = [f"task-{number}" for number in range(24)]
PATIENCE_S = 120.0

pytestmark = [pytest.mark.slow, pytest.mark.skipif(NGINX is None, reason="needs nginx")]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Server:
    """A server process on a port, which can be killed and started again."""

    def __init__(self) -> None:
        self.port = free_port()
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        words = [sys.executable, "-m", "support.scripted_server", str(self.port), str(len(TASKS))]
        path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path}
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def wait_until_ready(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.communicate(timeout=PATIENCE_S)
            self._process = None

    def answered(self) -> dict[str, int]:
        """The texts that this server has generated, by task."""
        url = f"http://127.0.0.1:{self.port}/metrics"
        text = httpx.get(url, headers={"authorization": f"Bearer {KEY}"}, timeout=20).text
        found = re.findall(r'^ptl_prefix_requests_total\{.*model="(task-\d+)".*\} ([0-9.]+)$', text, re.MULTILINE)
        counts: dict[str, int] = {}
        for task, count in found:
            counts[task] = counts.get(task, 0) + int(float(count))
        return counts


class Answering(BaseHTTPRequestHandler):
    """Answers any request with the port of its server."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        text = str(self.server.server_address[1]).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextmanager
def stand_in() -> Iterator[int]:
    """A server in this process that answers with its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def balancer(folder: Path, ports: Sequence[int]) -> Iterator[str]:
    """nginx with the page's configuration, before servers of these ports."""
    folder.chmod(0o755)  # nginx's workers are another user's
    main, shared = re.findall(r"```nginx\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    port = free_port()
    lines = re.findall(r" *server 10\.0\.0\.\d+:8000 .*\n", main)
    assert len(lines) == 2 and "".join(lines) in main
    main = main.replace("".join(lines), "".join(re.sub(r"10\.0.*:8000", f"127.0.0.1:{one}", lines[0]) for one in ports))
    main = main.replace("listen 80;", f"listen 127.0.0.1:{port};").replace("fail_timeout=10s", "fail_timeout=1s")
    (folder / "ptl_prefix_proxy.conf").write_text(shared)
    places = "".join(
        f"{name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"pid {folder}/pid;\ndaemon off;\nworker_processes 1;\nerror_log {folder}/error.log;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{places}{main}}}\n"
    )
    assert NGINX is not None
    words = [NGINX, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]
    process = subprocess.Popen(words)
    try:
        wait_for_port(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def wait_for_port(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        assert process.poll() is None, "nginx ended"
        assert time.monotonic() < deadline
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)


@pytest.fixture(scope="module")
def servers() -> Iterator[list[Server]]:
    both = [Server(), Server()]
    with ExitStack() as stack:
        for server in both:
            stack.callback(server.kill)
            server.start()
        for server in both:
            server.wait_until_ready()
        yield both


@pytest.fixture
def client(servers: list[Server], tmp_path: Path) -> Iterator[httpx.Client]:
    with (
        balancer(tmp_path, [server.port for server in servers]) as url,
        httpx.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=60) as client,
    ):
        yield client


def ask(client: httpx.Client, task: str, *, by: str = "header", model: str | None = None) -> httpx.Response:
    body = {"model": model or task, "prompt": "x", "max_tokens": 2}
    if by == "path":
        return client.post(f"/tasks/{task}/v1/completions", json=body)
    return client.post("/v1/completions", json=body, headers={"x-task": task} if by == "header" else {})


def places(client: httpx.Client, servers: list[Server], by: str = "header") -> dict[str, int]:
    """The server that answered for each task, asked twice."""
    before = [server.answered() for server in servers]
    for _ in range(2):
        for task in TASKS:
            assert ask(client, task, by=by).status_code == 200
    of_task = {}
    for task in TASKS:
        counts = [one.answered().get(task, 0) - old.get(task, 0) for one, old in zip(servers, before, strict=True)]
        assert sorted(counts) == [0, 2], f"{task} must stay on one server, but its answers are {counts}"
        of_task[task] = counts.index(2)
    return of_task


def test_a_task_is_answered_by_one_server_and_only_the_tasks_of_a_lost_server_move(
    servers: list[Server], client: httpx.Client
) -> None:
    by_header = places(client, servers)
    assert set(by_header.values()) == {0, 1}
    assert places(client, servers, by="path") == by_header

    servers[0].kill()
    before = servers[1].answered()
    for task in TASKS:
        assert ask(client, task).status_code == 200
    after = servers[1].answered()
    assert all(after[task] == before.get(task, 0) + 1 for task in TASKS)

    servers[0].start()
    servers[0].wait_until_ready()
    time.sleep(1.5)  # fail_timeout
    assert places(client, servers) == by_header


def test_a_server_that_comes_takes_its_tasks_from_the_others_and_moves_no_other_task(tmp_path: Path) -> None:
    def port_of_each(folder: Path, ports: list[int]) -> list[int]:
        folder.mkdir()
        with balancer(folder, ports) as url, httpx.Client(base_url=url, timeout=60) as client:
            return [int(ask(client, task).text) for task in TASKS]

    tmp_path.chmod(0o755)
    with stand_in() as one, stand_in() as other, stand_in() as new:
        before = port_of_each(tmp_path / "two", [one, other])
        after = port_of_each(tmp_path / "three", [one, other, new])

    assert set(before) == {one, other} and new in after
    assert all(now in (was, new) for was, now in zip(before, after, strict=True))


def test_a_request_whose_path_or_header_names_another_task_than_its_body_is_refused(client: httpx.Client) -> None:
    for by in ("header", "path"):
        refused = ask(client, "task-1", by=by, model="task-2")
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "task_mismatch")


def test_requests_without_a_task_are_answered_by_both_servers(client: httpx.Client, servers: list[Server]) -> None:
    before = [sum(server.answered().values()) for server in servers]
    for _ in range(20):
        assert ask(client, "task-3", by="nothing").status_code == 200

    assert all(sum(server.answered().values()) > old for server, old in zip(servers, before, strict=True))


def test_a_stream_comes_through_token_by_token(client: httpx.Client) -> None:
    body = {"model": "task-4", "prompt": "x", "max_tokens": 4, "stream": True}
    with client.stream("POST", "/tasks/task-4/v1/completions", json=body) as answer:
        parts = [line for line in answer.iter_lines() if line.startswith("data:")]

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert len(parts) >= 5 and parts[-1] == "data: [DONE]"
