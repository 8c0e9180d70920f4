"""Bodies of requests: every field has its type and range, and nothing is ignored that would change the answer."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptl_prefix.serving.api import ChatBody, CompletionBody, PrefixBody, read_body
from ptl_prefix.serving.api_error import ApiError

COMPLETION: dict[str, Any] = {"model": "towns", "prompt": "a"}
CHAT: dict[str, Any] = {"model": "towns", "messages": [{"role": "user", "content": "a"}]}
BOUNDS: dict[str, tuple[float, float]] = {
    "max_tokens": (1, 2**20),
    "max_completion_tokens": (1, 2**20),
    "n": (1, 16),
    "seed": (-(2**63), 2**63 - 1),
    "temperature": (0, 2),
    "top_p": (0, 1),
    "top_logprobs": (0, 20),
    "timeout_s": (1e-300, 86400),
}
INTEGERS = st.one_of(
    st.integers(-3, 30), st.integers(), st.sampled_from([-(2**63) - 1, 2**31, 2**63, 2**64, 10**400, -(10**4000)])
)


def read(values: dict[str, Any], kind: type[Any] = ChatBody) -> Any:
    return read_body(json.dumps(values).encode(), kind)


@given(name=st.sampled_from(sorted(BOUNDS)), value=INTEGERS)
def test_an_integer_is_taken_if_and_only_if_it_is_in_the_range_of_its_field(name: str, value: int) -> None:
    least, largest = BOUNDS[name]
    data = json.dumps(CHAT).encode()[:-1] + f', "{name}": {_digits(value)}}}'.encode()
    if least <= value <= largest:
        assert getattr(read_body(data, ChatBody), name) == value
    else:
        with pytest.raises(ApiError) as refused:
            read_body(data, ChatBody)
        assert (refused.value.status, refused.value.param) == (400, name)


def _digits(value: int) -> str:
    """An integer in digits, however many: Python would refuse to write some thousands of them."""
    return f"{'-' if value < 0 else ''}1{'0' * 4000}" if abs(value) >= 10**4000 else str(value)


@settings(max_examples=25)
@given(data=st.one_of(st.binary(max_size=40), st.text(max_size=40).map(str.encode)))
def test_any_bytes_are_a_request_or_one_refusal(data: bytes) -> None:
    for kind in (CompletionBody, ChatBody, PrefixBody):
        with pytest.raises(ApiError) as refused:
            read_body(data, kind)
        assert refused.value.status == 400


@pytest.mark.parametrize(
    "data",
    [
        b'{"model": "towns", "prompt": "\\ud800"}',
        b'{"model": "towns", "prompt": "a", "temperature": NaN}',
        b'{"model": "towns", "prompt": "a", "temperature": Infinity}',
        b'{"model": "towns", "prompt": "a", "user": NaN}',
        b'{"model": "towns", "prompt": "a", "max_tokens": true}',
        b'{"model": "towns", "prompt": "a", "max_tokens": 1.5}',
        b'{"model": "towns", "prompt": "a", "max_tokens": "5"}',
        b"[" * 100_000,
        b'{"model": "towns", "prompt": [1, 2]}',
        b'{"model": "towns", "prompt": []}',
        b'{"prompt": "a"}',
        json.dumps({**COMPLETION, "stop": ["a", "b", "c", "d", "e"]}).encode(),
        json.dumps({**COMPLETION, "stop": ""}).encode(),
        json.dumps({**COMPLETION, "prompt": ["a"] * 17}).encode(),
        json.dumps({**COMPLETION, "path": "/etc/passwd"}).encode(),
        json.dumps({**COMPLETION, "stream_options": {"include_usage": True, "more": 1}}).encode(),
    ],
)
def test_a_body_that_is_wrong_is_refused(data: bytes) -> None:
    with pytest.raises(ApiError) as refused:
        read_body(data, CompletionBody)

    assert refused.value.status == 400
    assert len(refused.value.message) < 400


@pytest.mark.parametrize(
    ("name", "value", "neutral"),
    [
        ("tools", [{"type": "function"}], []),
        ("logit_bias", {"5": 1}, {}),
        ("presence_penalty", 0.5, 0),
        ("frequency_penalty", -1, 0.0),
        ("response_format", {"type": "json_object"}, {"type": "text"}),
        ("echo", True, False),
        ("best_of", 3, 1),
        ("suffix", "end", ""),
        ("store", 0, False),
        ("presence_penalty", False, 0),
        ("reasoning_effort", "high", None),
    ],
)
def test_what_is_not_supported_is_refused_by_name_unless_it_asks_for_nothing(
    name: str, value: Any, neutral: Any
) -> None:
    with pytest.raises(ApiError) as refused:
        read({**CHAT, name: value})

    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", name)
    assert f"`{name}`" in refused.value.message
    assert read({**CHAT, name: neutral, "user": "a", "metadata": {"b": "c"}}) == read(CHAT)


def test_every_mistake_is_named_at_once() -> None:
    with pytest.raises(ApiError) as refused:
        read({**CHAT, "temperature": 3, "n": 0, "max_tokens": "many"})

    for part in ("`temperature`", "equal to 2, but is 3", "`n`", "but is 0", "`max_tokens`", "but is 'many'"):
        assert part in refused.value.message


def test_an_image_is_refused_and_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert read({**CHAT, "messages": [{"role": "user", "content": parts}]}).messages[0].text == "ab"
    with pytest.raises(ApiError, match="messages"):
        read({**CHAT, "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]})


@pytest.mark.parametrize("name", ["../x", "/etc", "a/b", "", ".hidden", "a" * 65, "a\n", "a\0", "http://a", "é"])
def test_a_name_that_could_be_a_path_is_refused(name: str) -> None:
    with pytest.raises(ApiError) as refused:
        read({"name": name}, PrefixBody)

    assert refused.value.param == "name"
    assert read({"name": "e2e.v1_b-2"}, PrefixBody).name == "e2e.v1_b-2"


def test_settings_have_one_meaning_in_both_kinds() -> None:
    both = {"max_tokens": 5, "stop": "x", "n": 2, "stream_options": {"include_usage": True}}
    chat, completion = read({**CHAT, **both}), read({**COMPLETION, **both}, CompletionBody)
    for body in (chat, completion):
        assert (body.max_new_tokens, body.stop_texts, body.num_choices, body.streams_usage) == (5, ("x",), 2, True)
        assert body.num_logprobs is None
    assert read({**CHAT, "max_tokens": 5, "max_completion_tokens": 7}).max_new_tokens == 7
    assert read({**CHAT, "logprobs": True}).num_logprobs == 0
    assert read({**CHAT, "logprobs": True, "top_logprobs": 3}).num_logprobs == 3
    assert read({**CHAT, "top_logprobs": 3}).num_logprobs is None
    assert read({**COMPLETION, "logprobs": 0}, CompletionBody).num_logprobs == 0
