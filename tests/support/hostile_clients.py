"""Clients that are slow, leave, flood or attack, each on its own connection; without a library, as they are no clients
of one.

In: an address and bytes. Out: the answers that came back, as `(status, body)`; none where the server hung up.
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Answers = list[tuple[int, bytes]]


@dataclass(frozen=True)
class Client:
    """A client of a server.

    Args:
        host: Host of the server.
        port: Port of the server.
        key: API key.
    """

    host: str
    port: int
    key: str

    def post(self, values: Any, *, path: str = "/v1/completions", key: str | None = None) -> bytes:
        """The bytes of a request; values that are bytes are sent as they are."""
        body = values if isinstance(values, bytes) else json.dumps(values).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key or self.key}\r\n"
        return f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body

    async def ask(self, *parts: bytes, pause_s: float = 0.0, read_pause_s: float = 0.0, num: int = 1) -> Answers:
        """Send a request in parts, and read the answers."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            try:
                for part in parts:
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(pause_s)
                return [await _answer(reader, read_pause_s) for _ in range(num)]
            except (ConnectionError, asyncio.IncompleteReadError):
                return []
        finally:
            writer.close()

    async def leave(self, request: bytes, *, after_s: float) -> Answers:
        """Send a request, and hang up without an answer."""
        _, writer = await asyncio.open_connection(self.host, self.port)
        writer.write(request)
        await asyncio.sleep(after_s)
        writer.transport.abort()
        return []


def attacks(client: Client, ask: dict[str, Any], *, largest_body: int) -> Sequence[bytes]:
    """Requests that must be refused: by a status of 4xx, or by an end of the connection."""
    bodies: list[Any] = [
        {**ask, "model": "../towns"},
        {**ask, "model": "/etc/passwd@" + "0" * 16},
        {**ask, "max_tokens": -1},
        {**ask, "max_tokens": 10**30},
        {**ask, "max_tokens": 2**20},
        {**ask, "n": 17},
        {**ask, "temperature": -0.1},
        {**ask, "seed": 2**64},
        {**ask, "timeout_s": 0},
        {**ask, "logit_bias": {"5": 100}},
        {**ask, "prompt": [1, 2]},
        {**ask, "prompt": ""},
        {**ask, "stop": [""]},
        {**ask, "kv_transfer_params": {"ptl_prefix": "0" * 16}},
        b'{"model": NaN}',
        b"[" * 5_000,
        b"\xff\xfe",
        b"a" * (largest_body + 1),
    ]
    whole = client.post(ask)
    return [
        *(client.post(body) for body in bodies),
        client.post(ask, key="x" * 40),
        client.post(ask, path="/v1/load_prefix"),
        client.post(ask, path="/../../etc/passwd"),
        client.post(ask, path="/%00"),
        b"GET /v1/completions HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00" * 20 + b"\r\n\r\n",
        whole.replace(b"content-length: ", b"content-length: -"),
        whole.replace(b"content-length: ", b"transfer-encoding: chunked\r\ncontent-length: "),
        whole.replace(b"host: a", b"host: a\r\nx-long: " + b"a" * 100_000),
        whole.replace(b"application/json", b"text/plain"),
    ]


async def _answer(reader: asyncio.StreamReader, pause_s: float) -> tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    status = int(head.split(" ", 2)[1])
    if "transfer-encoding: chunked" in head:
        body = b""
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
            await asyncio.sleep(pause_s)
        await reader.readline()
        return status, body
    length = next((line.partition(": ")[2] for line in head.split("\r\n") if line.startswith("content-length")), None)
    return status, await (reader.read() if length is None else reader.readexactly(int(length)))
