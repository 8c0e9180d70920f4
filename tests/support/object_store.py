"""An S3-compatible server on loopback, and a proxy before it that fails as networks and stores do.

In: nothing. Out: `FaultyStore`: a bucket whose address and environment variables tests use, with a list of faults that
the proxy commits. The server is moto's; what it answers is not scripted.
"""

import http.client
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
    answers: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)

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


def _handler(store: FaultyStore) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

        def do_any(self) -> None:
            """Forward a request, as far as the faults allow it."""
            store.requests.append((self.command, self.path))
            faults = [fault for fault in store.faults if fault.meets(self.command, self.path)]
            kinds = {fault.kind for fault in faults}
            length = int(self.headers.get("Content-Length") or 0)
            if "cut" in kinds:
                self.rfile.read(length // 2)
                self._cut()
                return
            body = self.rfile.read(length)
            for fault in faults:
                time.sleep(fault.seconds if fault.kind == "slow" else 0.0)
            if "error" in kinds:
                self._answer(500, {"Content-Type": "application/xml"}, b"<Error><Code>InternalError</Code></Error>")
                return
            old = next((fault for fault in faults if fault.kind == "old"), None)
            answer = old.answers.get(self.path) if old is not None else None
            if answer is None:
                answer = self._forward(body)
            if old is not None:
                old.answers.setdefault(self.path, answer)
            if "lost" in kinds:
                self._cut()
                return
            self._answer(*answer)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do_any  # noqa: N815

        def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
            connection = http.client.HTTPConnection("127.0.0.1", store.direct_port, timeout=30)
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

        def _cut(self) -> None:
            self.close_connection = True
            self.connection.close()

    return Handler


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Print nothing: connections are cut on purpose."""


@contextmanager
def faulty_store() -> Iterator[FaultyStore]:
    """The server and the proxy while the block runs."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        store = FaultyStore(0, server.get_host_and_port()[1])
        proxy = _QuietServer(("127.0.0.1", 0), _handler(store))
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
