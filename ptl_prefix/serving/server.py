"""The routes: HTTP in, HTTP out. The only file that knows the web framework.

In: a `Service`, and the keys. Out: an ASGI application. Before anything else of a request is read, its key is; then the
body, up to its largest size; then a place is taken; only then is its text tokenised. Everything but `/health` and the
page at `/`, which is the same file for all, needs a key. A client that hangs up gives up its texts.
"""

import asyncio
import logging
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ptl_prefix.serving.api import AttentionBody, ChatBody, CompletionBody, PrefixBody, read_body
from ptl_prefix.serving.api_error import ApiError
from ptl_prefix.serving.api_keys import ApiKeys, Client
from ptl_prefix.serving.job_response import JobResponse
from ptl_prefix.serving.metrics import CONTENT_TYPE
from ptl_prefix.serving.openapi import describe_api
from ptl_prefix.serving.page_policy import content_security_policy
from ptl_prefix.serving.service import Service
from ptl_prefix.serving.task_header import TASK_HEADER, check_task_header

OPEN_PATHS = ("/", "/health")
"""The paths that need no key."""
_BODY_TIMEOUT_S = 30.0
_Body = TypeVar("_Body", CompletionBody, ChatBody, AttentionBody)
_logger = logging.getLogger("ptl_prefix.serving")


def make_app(service: Service, keys: ApiKeys) -> ASGIApp:
    """The application.

    Args:
        service: What answers.
        keys: The keys that are accepted.
    """
    routes = _Routes(service)
    app = Starlette(
        routes=[
            Route("/", routes.page),
            Route("/health", routes.health),
            Route("/ready", routes.ready),
            Route("/metrics", routes.metrics),
            Route("/openapi.json", routes.openapi),
            Route("/v1/models", routes.models),
            Route("/v1/models/{model}", routes.model),
            Route("/v1/completions", routes.completions, methods=["POST"]),
            Route("/v1/chat/completions", routes.chat, methods=["POST"]),
            Route("/v1/prefix_attention", routes.prefix_attention, methods=["POST"]),
            Route("/v1/load_prefix", routes.load, methods=["POST"]),
            Route("/v1/unload_prefix", routes.unload, methods=["POST"]),
        ],
        exception_handlers={HTTPException: _http_error, ApiError: routes.refuse, Exception: _failed},
    )
    app.router.redirect_slashes = False
    return _Guarded(app, keys, service)


class _Guarded:
    """Asks for the key before anything else; what fails behind it is one sentence, and its traceback is logged."""

    def __init__(self, app: ASGIApp, keys: ApiKeys, service: Service) -> None:
        self._app = app
        self._keys = keys
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        client = self._keys.find(headers.get(b"authorization", b"").decode("latin-1"))
        if client is None and scope["path"] not in OPEN_PATHS:
            self._service.metrics.rejected("invalid_api_key")
            error = ApiError(
                401,
                "A request must carry an API key of this server as `Authorization: Bearer <key>`, but this one does "
                "not.",
                code="invalid_api_key",
            )
            await _as_response(error)(scope, receive, send)
            return
        scope["client_of_key"] = client
        try:
            await self._app(scope, receive, send)
        except ClientDisconnect:
            pass
        except Exception:  # it has been answered
            _logger.exception("A request failed.")


class _Routes:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._page = files("ptl_prefix.serving").joinpath("page.html").read_text(encoding="utf-8")
        self._page_headers = {
            "content-security-policy": content_security_policy(self._page),
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
        }

    async def page(self, request: Request) -> Response:
        return Response(self._page, media_type="text/html", headers=self._page_headers)

    async def health(self, request: Request) -> Response:
        problem = self._service.health.problem()
        return _state("ok" if problem is None else "unhealthy", problem)

    async def ready(self, request: Request) -> Response:
        draining = "the server is stopping" if self._service.admission.is_draining else None
        problem = draining or self._service.health.unready()
        return _state("ready" if problem is None else "not ready", problem)

    async def metrics(self, request: Request) -> Response:
        return Response(self._service.metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def openapi(self, request: Request) -> Response:
        return JSONResponse(describe_api())

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": self._service.models.cards()})

    async def model(self, request: Request) -> Response:
        return JSONResponse(self._service.models.card(request.path_params["model"]))

    async def completions(self, request: Request) -> JobResponse:
        return await self._answer(request, await self._read_for_model(request, CompletionBody))

    async def chat(self, request: Request) -> JobResponse:
        return await self._answer(request, await self._read_for_model(request, ChatBody))

    async def prefix_attention(self, request: Request) -> Response:
        body = await self._read_for_model(request, AttentionBody)
        return JSONResponse(await self._service.prefix_attention(body, _client(request).name))

    async def load(self, request: Request) -> Response:
        name = await self._admins_prefix(request)
        return JSONResponse(await self._service.load(name))

    async def unload(self, request: Request) -> Response:
        name = await self._admins_prefix(request)
        await self._service.unload(name)
        return JSONResponse({"id": name, "object": "model", "deleted": True})

    async def refuse(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        self._service.metrics.rejected(error.code)
        return _as_response(error)

    async def _admins_prefix(self, request: Request) -> str:
        if not _client(request).is_admin:
            raise ApiError(403, "Loading and unloading need the key of an admin.", code="admin_key_needed")
        return read_body(await self._read(request), PrefixBody).name

    async def _read_for_model(self, request: Request, kind: type[_Body]) -> _Body:
        """A body that names a model, which the header of a balancer must not contradict."""
        body = read_body(await self._read(request), kind)
        check_task_header(request.headers.getlist(TASK_HEADER), body.model)
        return body

    async def _read(self, request: Request) -> bytes:
        """The body of a request, up to the largest size."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise ApiError(
                415, "The header `Content-Type` must be application/json, but is not.", code="unsupported_media_type"
            )
        largest = self._service.limits.max_body_bytes
        data = bytearray()
        try:
            async with asyncio.timeout(_BODY_TIMEOUT_S):
                async for part in request.stream():
                    data += part
                    if len(data) > largest:
                        raise ApiError(413, f"A body must have at most {largest:,} bytes.", code="body_too_large")
        except TimeoutError as error:
            raise ApiError(408, f"A body must arrive in {_BODY_TIMEOUT_S:.0f} s.", code="body_timeout") from error
        return bytes(data)

    async def _answer(self, request: Request, body: CompletionBody | ChatBody) -> JobResponse:
        return JobResponse(self._service, body, _client(request).name)


def _client(request: Request) -> Client:
    client = request.scope["client_of_key"]
    assert isinstance(client, Client)  # `_Guarded` has refused others
    return client


def _as_response(error: ApiError) -> Response:
    return JSONResponse(error.body, status_code=error.status, headers=error.headers)


async def _http_error(request: Request, error: Exception) -> Response:
    """The framework's own refusals, such as 404 and 405, in the same form."""
    assert isinstance(error, HTTPException)
    codes: Mapping[int, str] = {404: "unknown_path", 405: "unknown_method"}
    refusal = ApiError(
        error.status_code,
        f"{request.method} {request.url.path[:200]} is no route of this server; /openapi.json lists them.",
        code=codes.get(error.status_code, "http_error"),
    )
    return JSONResponse(refusal.body, status_code=error.status_code, headers=error.headers)


async def _failed(request: Request, error: Exception) -> Response:
    """A mistake of this package: the client learns that it is none of its own."""
    return _as_response(ApiError(500, "The server failed at this request; its log says why.", code="internal_error"))


def _state(status: str, problem: str | None) -> Response:
    body: dict[str, Any] = {"status": status} if problem is None else {"status": status, "problem": problem}
    return JSONResponse(body, status_code=200 if problem is None else 503)
