"""An answer that is generated while its client listens: whole, or as server-sent events.

In: a body and the three arguments that every ASGI server calls with. Out: the messages of the answer. A whole answer
and a stream watch for the client alike: if it hangs up, its texts are given up.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from ptl_prefix.serving.api import ChatBody, CompletionBody
from ptl_prefix.serving.service import JobInWork, Service

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_KEEPALIVE_S = 15.0
"""Seconds without text after which a comment is sent, so that proxies see that the stream lives."""


class JobResponse:
    """The answer to one body.

    Args:
        service: What generates.
        body: The body, which has been read to its end.
        client: Whom it counts for.
    """

    def __init__(self, service: Service, body: CompletionBody | ChatBody, client: str) -> None:
        self._service = service
        self._body = body
        self._client = client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer; errors before its first byte are raised."""
        work = asyncio.ensure_future(self._respond(send))
        gone = asyncio.ensure_future(_hung_up(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not work.done():
                work.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)
        if not work.cancelled() and (error := work.exception()) is not None:
            raise error

    async def _respond(self, send: Send) -> None:
        async with self._service.job(self._body, self._client) as job:
            if self._body.stream:
                await _stream(job, send)
            else:
                body = json.dumps(await job.whole()).encode()
                headers = {"content-type": "application/json", "content-length": str(len(body))}
                await send(_start(job, headers))
                await send({"type": "http.response.body", "body": body, "more_body": False})


async def _stream(job: JobInWork, send: Send) -> None:
    headers = {
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-cache",
        "x-accel-buffering": "no",
    }
    await send(_start(job, headers))
    lines = job.lines()
    following = asyncio.ensure_future(anext(lines, None))
    try:
        while True:
            done, _ = await asyncio.wait({following}, timeout=_KEEPALIVE_S)
            if not done:
                await send({"type": "http.response.body", "body": b": waiting\n\n", "more_body": True})
                continue
            if (line := following.result()) is None:
                break
            await send({"type": "http.response.body", "body": f"data: {line}\n\n".encode(), "more_body": True})
            following = asyncio.ensure_future(anext(lines, None))
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    finally:
        following.cancel()


def _start(job: JobInWork, headers: Mapping[str, str]) -> dict[str, Any]:
    raw = [(name.encode(), value.encode()) for name, value in {**headers, "x-request-id": job.request_id}.items()]
    return {"type": "http.response.start", "status": 200, "headers": raw}


async def _hung_up(receive: Receive) -> None:
    """Return when the client is gone; its body has been read before."""
    while (await receive())["type"] != "http.disconnect":
        pass
