"""What the gateway sends to vLLM, and how it reads what comes back. No network here.

In: a `GenerationRequest`, and the bundle that it is bound to. Out: the body of vLLM's completions; and, from the lines
of its stream, tokens or an error. The body is written from the request alone: no field or header of a client reaches
vLLM as it was sent, so none can set a salt, a prefix or a parameter of vLLM's own. Every sampling parameter is stated,
since vLLM takes those that are missing from a file beside the model.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ptl_prefix.artifacts.paged_prefix import PLACEHOLDER_ID, PrefixLabel, paged_problem, vllm_version_problem
from ptl_prefix.serving.api_error import ApiError, invalid
from ptl_prefix.serving.request import GenerationRequest, TokenLogprobs
from ptl_prefix.serving.served_bundle import ServedBundle

UPSTREAM_KEY_VARIABLE = "PTL_PREFIX_UPSTREAM_KEY"
"""The environment variable with the key that vLLM asks for."""

_TOKEN = "token_id:"
_DONE = "[DONE]"
_PASSED_ON = {400, 408, 413, 422, 429}
"""Statuses of vLLM that are about the request; others are about vLLM, or about the gateway's own key."""


@dataclass(frozen=True)
class UpstreamTokens:
    """Tokens of one line of vLLM's stream.

    Args:
        token_ids: Ids since the last line.
        logprobs: One entry per id, if the request asked for them.
        finish_reason: Why vLLM ended the text; `None` if it goes on.
        num_prompt_tokens: Length of the prompt as vLLM counted it, placeholders included, on the last line only.
    """

    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    finish_reason: str | None = None
    num_prompt_tokens: int | None = None


def upstream_problems(url: str) -> list[str]:
    """What is wrong with the address of a vLLM server."""
    try:
        parts = urlsplit(url)
        is_right = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return [f"`upstream` must be a URL such as http://127.0.0.1:8000, but is {url!r:.200}."]
    if not is_right or parts.query or parts.fragment or parts.username or parts.password:
        return [
            "`upstream` must be a URL such as http://127.0.0.1:8000, without a user, query or fragment, but is "
            f"{parts._replace(netloc=parts.netloc.rpartition('@')[2]).geturl()!r:.200}; a key of vLLM's is read from "
            f"${UPSTREAM_KEY_VARIABLE}."
        ]
    return []


def base_url(url: str) -> str:
    """The address of a vLLM server without the end that clients of OpenAI write."""
    return url.rstrip("/").removesuffix("/v1")


def version_problem(answer: Any) -> str | None:
    """Why the server that answered `GET /version` cannot serve prefixes."""
    version = answer.get("version") if isinstance(answer, dict) else None
    return vllm_version_problem(str(version))


def served_model(answer: Any) -> tuple[str, int]:
    """The name of the model and the length of its context window, from vLLM's answer to `GET /v1/models`.

    Raises:
        ValueError: When the answer holds no model.
    """
    try:
        card = answer["data"][0]
        return str(card["id"]), int(card["max_model_len"])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError("it must offer a model at /v1/models, but does not") from error


def check_bundle(bundle: ServedBundle) -> None:
    """Refuse a bundle that vLLM would serve wrongly, with the reason.

    Raises:
        ApiError: When it is one.
    """
    if (problem := paged_problem(bundle.manifest)) is not None:
        raise invalid(f"`model` cannot be {bundle.name!r} here. {problem}", param="model", code="prefix_not_on_vllm")


def upstream_body(request: GenerationRequest, bundle: ServedBundle | None, *, model: str) -> dict[str, Any]:
    """The body of `POST /v1/completions` for vLLM, whose answer is a stream.

    Args:
        request: The request.
        bundle: The bundle that it is bound to; `None` for the bare base.
        model: Name of the base in vLLM.
    """
    sampling = request.sampling
    num_placeholders = 0 if bundle is None else bundle.num_positions
    body: dict[str, Any] = {
        "model": model,
        "prompt": [PLACEHOLDER_ID] * num_placeholders + list(request.prompt_ids),
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "seed": sampling.seed,
        "stop_token_ids": list(request.stop_ids),
        # A text ends with the ids that its task was trained to end with, no others.
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
    }
    if sampling.num_logprobs is not None:
        body["logprobs"] = sampling.num_logprobs
    if bundle is not None:
        label = PrefixLabel(bundle.version)
        body |= {"kv_transfer_params": label.kv_transfer_params, "cache_salt": label.cache_salt}
    return body


def probe_body(body: Mapping[str, Any]) -> dict[str, Any]:
    """A body that asks for one token of the same text, not as a stream: only then vLLM says what its connector did."""
    return {**body, "max_tokens": 1, "stream": False, "stream_options": None}


def check_probe(answer: Any, version: str) -> None:
    """Check that vLLM put the prefix before the text.

    Raises:
        ApiError: When it does not say so; then it read the placeholders as text.
    """
    found = answer.get("kv_transfer_params") if isinstance(answer, dict) else None
    if found != PrefixLabel(version).kv_transfer_params:
        raise ApiError(
            502,
            f"vLLM must say that it loaded the prefix {version}, but says {found!r:.80}; start it with the connector "
            "of ptl_prefix in --kv-transfer-config.",
            code="upstream_without_connector",
        )


def read_line(line: str, *, num_logprobs: int | None) -> UpstreamTokens | None:
    """The tokens of one line of vLLM's stream; `None` if it holds none, such as the last one.

    Raises:
        ApiError: When the line is an error, or is not what vLLM sends.
    """
    if not line.startswith("data:") or (data := line.removeprefix("data:").strip()) == _DONE:
        return None
    try:
        chunk = json.loads(data)
        if "error" in chunk:
            raise upstream_error(int(chunk["error"].get("code") or 500), chunk)
        usage = chunk.get("usage")
        counted = None if usage is None else int(usage["prompt_tokens"])
        if not chunk["choices"]:
            return UpstreamTokens(num_prompt_tokens=counted)
        choice = chunk["choices"][0]
        ids = tuple(int(one) for one in choice["token_ids"] or ())
        logprobs = () if num_logprobs is None or not ids else _logprobs(ids, choice["logprobs"], num_logprobs)
        return UpstreamTokens(ids, logprobs, choice["finish_reason"], counted)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ApiError(
            502, f"vLLM must answer with lines of completions, but one is {data[:100]!r}.", code="upstream_unreadable"
        ) from error


def check_prompt_length(counted: int | None, body: Mapping[str, Any]) -> None:
    """Check that vLLM read the whole prompt and nothing besides.

    Raises:
        ApiError: When it counted another number of tokens.
    """
    sent = len(body["prompt"])
    if counted not in (None, sent):
        raise ApiError(
            502, f"vLLM must read the {sent} tokens that it was sent, but read {counted}.", code="upstream_unreadable"
        )


def upstream_error(status: int, answer: Any) -> ApiError:
    """The error of the gateway for an error of vLLM."""
    error = answer.get("error") if isinstance(answer, dict) else None
    said = error.get("message") if isinstance(error, dict) else None
    message = f"{said or 'no reason'}"[:1000]
    if status in _PASSED_ON:
        param = error.get("param") if isinstance(error, dict) else None
        retry_after_s = 1 if status == 429 else None
        return ApiError(
            status,
            f"vLLM refuses the request: {message}",
            code="upstream_refused",
            param=param if isinstance(param, str) else None,
            retry_after_s=retry_after_s,
        )
    return ApiError(
        502, f"vLLM failed at the request, with status {status}: {message}; its log says why.", code="upstream_failed"
    )


def unreachable(error: Exception) -> ApiError:
    """The error of the gateway when there is no connection to vLLM, or it broke off."""
    return ApiError(
        502,
        f"vLLM must be reachable, but is not ({type(error).__name__}); try again later.",
        code="upstream_unreachable",
        retry_after_s=5,
    )


def _logprobs(ids: tuple[int, ...], found: Mapping[str, Any], num_logprobs: int) -> tuple[TokenLogprobs, ...]:
    """One entry per id; vLLM adds the chosen token to the likeliest ones."""
    entries = []
    for place, token_id in enumerate(ids):
        others = found["top_logprobs"][place] or {}
        pairs = [(int(name.removeprefix(_TOKEN)), float(value)) for name, value in others.items()]
        likeliest = sorted(pairs, key=lambda pair: -pair[1])[:num_logprobs]
        entries.append(TokenLogprobs(token_id, float(found["token_logprobs"][place]), tuple(likeliest)))
    return tuple(entries)
