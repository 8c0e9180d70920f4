"""An S3-compatible server on loopback, and a proxy before it that fails as networks and stores do.

In: nothing. Out: `FaultyStore`: a bucket whose address and environment variables tests use, with a list of faults that
the proxy commits. The server is moto's; what it answers is not scripted.
"""

import http.client
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

BUCKET = "runs"
VARIABLES = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
_HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "server", "date"}


Answer = tuple[int, dict[str, str], bytes]
"""Status, headers and body."""


@dataclass
class Fault:
    """What the proxy does to some requests.

    Args:
        kind: `error`: answers with 500 and forwards nothing; `lost`: forwards, then cuts the connection; `cut`: cuts
            the connection in the middle of the request's body; `slow`: waits for `seconds` before it forwards; `old`:
            answers a listing with the first answer that it has had since the fault is there.
        method: Method of the requests; empty means all.
        part: Part of their path and query.
        times: How often it happens.
        seconds: Seconds to wait, of `slow`.
    """

    kind: str
    method: str = ""
    part: str = ""
    times: int = 10**6
    seconds: float = 0.0
    committed: int = 0
    answers: dict[str, Answer] = field(default_factory=dict)

    def meets(self, method: str, path: str) -> bool:
        """Whether a request is met, which is counted."""
        if self.committed >= self.times or self.method not in ("", method) or self.part not in path:
            return False
        self.committed += 1
        return True


class FaultyStore:
    """A bucket behind the proxy.

    Args:
        port: Port of the proxy.
        direct_port: Port of the server itself.
    """

    def __init__(self, port: int, direct_port: int) -> None:
        self.port, self.direct_port = port, direct_port
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []

    def fault(self, kind: str, **settings: Any) -> Fault:
        """Add a fault."""
        fault = Fault(kind, **settings)
        self.faults.append(fault)
        return fault

    def heal(self) -> None:
        """Remove all faults."""
        self.faults.clear()

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which the libraries find the proxy."""
        return {**VARIABLES, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}"}

    def keys(self, prefix: str = "") -> list[str]:
        """All keys of the bucket that begin with a prefix, asked of the server itself."""
        client = self._client()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return sorted(one["Key"] for page in pages for one in page.get("Contents", ()))

    def content(self, key: str) -> bytes:
        """An object, asked of the server itself."""
        content: bytes = self._client().get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return content

    def put(self, key: str, content: bytes) -> None:
        """Write an object at the server itself."""
        self._client().put_object(Bucket=BUCKET, Key=key, Body=content)

    def remove(self, key: str) -> None:
        """Remove an object at the server itself."""
        self._client().delete_object(Bucket=BUCKET, Key=key)

    def empty(self) -> None:
        """Remove every object and fault."""
        self.heal()
        self.requests.clear()
        for key in self.keys():
            self._client().delete_object(Bucket=BUCKET, Key=key)

    def _client(self) -> Any:
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.direct_port}",
            aws_access_key_id="test",
            aws_secret_access_key="test",
            region_name="us-east-1",
        )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    store: FaultyStore

    def log_message(self, *_: Any) -> None:
        """Print nothing."""

    def do_any(self) -> None:
        """Forward a request, as far as the faults allow it."""
        self.store.requests.append((self.command, self.path))
        faults = {fault.kind: fault for fault in self.store.faults if fault.meets(self.command, self.path)}
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length // 2 if "cut" in faults else length)
        if "slow" in faults:
            time.sleep(faults["slow"].seconds)
        if "error" in faults:
            self._answer(500, {"Content-Type": "application/xml"}, b"<Error><Code>InternalError</Code></Error>")
            return
        answer = None if "cut" in faults else self._answer_of(body, faults.get("old"))
        if answer is None or "lost" in faults:
            self.close_connection = True
            self.connection.close()
        else:
            self._answer(*answer)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do_any  # noqa: N815

    def _answer_of(self, body: bytes, old: Fault | None) -> Answer:
        answer = None if old is None else old.answers.get(self.path)
        answer = answer or self._forward(body)
        if old is not None:
            old.answers[self.path] = answer
        return answer

    def _forward(self, body: bytes) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.store.direct_port, timeout=30)
        try:
            connection.request(self.command, self.path, body=body, headers=dict(self.headers.items()))
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        length = headers.get("Content-Length", str(len(body))) if self.command == "HEAD" else str(len(body))
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Print nothing: connections are cut on purpose."""


@contextmanager
def faulty_store() -> Iterator[FaultyStore]:
    """The server and the proxy while the block runs."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs every request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        store = FaultyStore(0, server.get_host_and_port()[1])
        proxy = _QuietServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"store": store}))
        store.port = proxy.server_address[1]
        thread = threading.Thread(target=proxy.serve_forever, daemon=True)
        thread.start()
        store._client().create_bucket(Bucket=BUCKET)
        try:
            yield store
        finally:
            proxy.shutdown()
            proxy.server_close()
    finally:
        server.stop()


def wait_until(is_so: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Wait until something is so; fail if it takes too long."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.02)
