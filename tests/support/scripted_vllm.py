"""vLLM's HTTP interface, and the parts of its Python that the connector builds on, as scripts: without vLLM.

In: what the server is to say. Out: `ScriptedVllm`, a server on loopback that notes what it was sent; and
`fake_modules`, the classes that the connector derives from or looks at.
"""

import json
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

TOKENS = (335, 1200, 47, 0)
"""What the server writes for each prompt."""


class ScriptedVllm:
    """A server that writes `TOKENS`.

    Args:
        version: Version that it claims.
        has_connector: Whether it says that it loaded the prefix.
    """

    def __init__(self, *, version: str = "0.32.0", has_connector: bool = True) -> None:
        self.version = version
        self.has_connector = has_connector
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.refusal: tuple[int, str] | None = None
        self.breaks_off = False
        self.is_slow = threading.Event()
        self.was_left = threading.Event()
        self.extra_tokens = 0
        self.url = ""

    def answer(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        """Answer a completion."""
        self.bodies.append(body)
        self.headers.append({name.lower(): value for name, value in handler.headers.items()})
        if self.refusal is not None:
            status, message = self.refusal
            _send(handler, {"error": {"message": message, "param": None, "code": status}}, status)
        elif not body["stream"]:
            params = body.get("kv_transfer_params") if self.has_connector else None
            _send(handler, {"choices": [], "kv_transfer_params": params})
        else:
            self._stream(handler, body)

    def _stream(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        handler.send_response(200)
        handler.send_header("content-type", "text/event-stream")
        handler.end_headers()
        usage = {"prompt_tokens": len(body["prompt"]) + self.extra_tokens}
        kept = TOKENS[: body["max_tokens"]]
        try:
            for place, token in enumerate(kept):
                is_last = token in body["stop_token_ids"] or place == len(kept) - 1
                reason = ("stop" if token in body["stop_token_ids"] else "length") if is_last else None
                top = {f"token_id:{token}": -0.25, "token_id:9": -0.75}
                logprobs = {"token_logprobs": [-0.25], "top_logprobs": [top]} if "logprobs" in body else None
                choice = {"index": 0, "text": "?", "token_ids": [token], "logprobs": logprobs, "finish_reason": reason}
                _write(handler, {"choices": [choice], "usage": usage})
                if self.breaks_off:
                    return
                if self.is_slow.is_set():
                    self._wait_for_the_end(handler)
            handler.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            self.was_left.set()

    def _wait_for_the_end(self, handler: BaseHTTPRequestHandler) -> None:
        while self.is_slow.is_set():
            handler.wfile.write(b": still there\n\n")
            handler.wfile.flush()
            self.was_left.wait(0.02)


def _write(handler: BaseHTTPRequestHandler, chunk: dict[str, Any]) -> None:
    handler.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
    handler.wfile.flush()


def _send(handler: BaseHTTPRequestHandler, answer: Any, status: int = 200) -> None:
    data = json.dumps(answer).encode()
    handler.send_response(status)
    handler.send_header("content-length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


@contextmanager
def scripted_vllm(**settings: Any) -> Iterator[ScriptedVllm]:
    """Run a server on a free port."""
    script = ScriptedVllm(**settings)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            card = {"id": "base", "max_model_len": 512}
            _send(self, {"version": script.version} if self.path == "/version" else {"data": [card]})

        def do_POST(self) -> None:
            script.answer(self, json.loads(self.rfile.read(int(self.headers["content-length"]))))

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    script.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield script
    finally:
        script.is_slow.clear()
        server.shutdown()
        server.server_close()
        thread.join()


class FullAttentionSpec(SimpleNamespace):
    """Pages of a layer that attends to the whole text."""


class _Connector:
    def __init__(self, *, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        self.metadata: Any = None

    def _get_connector_metadata(self) -> Any:
        return self.metadata


def fake_modules(version: str = "0.32.0") -> dict[str, types.ModuleType]:
    """The modules of vLLM that the connector imports, by name."""

    def module(name: str, **members: Any) -> types.ModuleType:
        made = types.ModuleType(name)
        vars(made).update(members)
        return made

    base = "vllm.distributed.kv_transfer.kv_connector.v1.base"
    parts = base.split(".")
    packages = [".".join(parts[:end]) for end in range(3, len(parts))]
    found = {name: module(name) for name in [*packages, "vllm.model_executor", "vllm.model_executor.models", "vllm.v1"]}
    connector = {
        "KVConnectorBase_V1": _Connector,
        "KVConnectorMetadata": object,
        "KVConnectorRole": SimpleNamespace(SCHEDULER=0, WORKER=1),
    }
    return found | {
        "vllm": module("vllm", __version__=version),
        "vllm.distributed": module(
            "vllm.distributed",
            get_tensor_model_parallel_rank=lambda: 0,
            get_tensor_model_parallel_world_size=lambda: 1,
        ),
        base: module(base, **connector),
        "vllm.model_executor.models.utils": module(
            "vllm.model_executor.models.utils",
            extract_layer_index=lambda name: next(int(part) for part in name.split(".") if part.isdigit()),
        ),
        "vllm.v1.kv_cache_interface": module("vllm.v1.kv_cache_interface", FullAttentionSpec=FullAttentionSpec),
    }
