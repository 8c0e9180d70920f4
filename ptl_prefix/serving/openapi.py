"""The description of the API that other programs read: `/openapi.json`.

In: the kinds of bodies. Out: an OpenAPI 3.1 document.
"""

from typing import Any

from pydantic import BaseModel

from ptl_prefix.serving.api import AttentionBody, ChatBody, CompletionBody, PrefixBody
from ptl_prefix.serving.task_header import TASK_HEADER

_REFUSALS = {
    "400": "A field is wrong; `param` names it.",
    "401": "The API key is missing or wrong.",
    "403": "The key is not that of an admin.",
    "404": "There is no such model or path.",
    "408": "The body did not arrive in time.",
    "413": "The body is too large.",
    "415": "The body is not declared as JSON.",
    "429": "Too many requests; `Retry-After` says when to try again.",
    "500": "The server failed at this request.",
    "502": "The vLLM server behind this one failed, or is down.",
    "503": "The server is stopping, or its engine does not work.",
    "504": "The text was not finished by the request's deadline.",
}
_TASK_PARAMETER = {
    "name": TASK_HEADER,
    "in": "header",
    "description": "The task of the body's `model`, for a balancer; a request in which the two differ is refused.",
    "schema": {"type": "string"},
}
_JSON = {"application/json": {"schema": {"type": "object"}}}


def describe_api() -> dict[str, Any]:
    """The OpenAPI document."""
    bodies: dict[str, tuple[type[BaseModel], str]] = {
        "/v1/completions": (CompletionBody, "Generate a text for a source."),
        "/v1/chat/completions": (ChatBody, "Generate a text for a user's message."),
        "/v1/prefix_attention": (AttentionBody, "Measure how much a source attends to the prefix of a task."),
        "/v1/load_prefix": (PrefixBody, "Read a bundle of the folder into memory; needs an admin's key."),
        "/v1/unload_prefix": (PrefixBody, "Take a bundle out of the store; needs an admin's key."),
    }
    reads = {
        "/health": "Whether the engine's loop comes round; needs no key.",
        "/ready": "Whether the base is loaded and has generated.",
        "/v1/models": "The base and the tasks, with a card each.",
    }
    schemas: dict[str, Any] = {}
    paths: dict[str, Any] = {
        path: {"get": _operation(about, is_open=path == "/health")} for path, about in reads.items()
    }
    for path, (body, about) in bodies.items():
        schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {}) | {body.__name__: schema}
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{body.__name__}"}}}
        operation = _operation(about)
        if path.endswith("completions"):
            operation["responses"]["200"]["content"] = {**_JSON, "text/event-stream": {"schema": {"type": "string"}}}
        if "model" in body.model_fields:
            operation["parameters"] = [_TASK_PARAMETER]
        paths[path] = {"post": {**operation, "requestBody": {"required": True, "content": content}}}
    model = {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    paths["/v1/models/{model}"] = {"get": {**_operation("The card of one model."), "parameters": [model]}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "ptl_prefix", "version": "1", "description": "One frozen model, and a prefix for each task."},
        "components": {"schemas": schemas, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "paths": paths,
    }


def _operation(about: str, *, is_open: bool = False) -> dict[str, Any]:
    responses = {"200": {"description": "The answer.", "content": _JSON}}
    responses |= {status: {"description": text, "content": _JSON} for status, text in _REFUSALS.items()}
    return {"summary": about, "responses": responses, "security": [] if is_open else [{"key": []}]}
