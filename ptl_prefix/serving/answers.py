"""The answers in OpenAI's format: whole, or as chunks of a stream.

In: the events of a body's texts. Out: the JSON object of a completion or chat completion, or of each of its chunks.
`usage` counts the tokens of the text as prompt tokens, and the prefix's rows as `cached_tokens` beside them: no client
sent them, and no forward pass computed them. Behind vLLM their placeholders are in no count.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ptl_prefix.serving.models import Target
from ptl_prefix.serving.planning import Plan
from ptl_prefix.serving.request import Event, FinishEvent, TokenLogprobs

LEAST_LOGPROB = -9999.0
"""Stands for the log-probability of what cannot come, as JSON has no infinity."""


@dataclass
class _Choice:
    """One text so far."""

    text: str = ""
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish_reason: str | None = None
    num_new_tokens: int = 0


class Answer:
    """The answer to one body.

    Args:
        request_id: Identifier of the answer.
        plan: The texts that are generated.
        target: What generates them.
        is_chat: Whether it is a chat completion.
        has_logprobs: Whether log-probabilities were asked for.
    """

    def __init__(self, *, request_id: str, plan: Plan, target: Target, is_chat: bool, has_logprobs: bool) -> None:
        self.request_id = request_id
        self._plan = plan
        self._target = target
        self._is_chat = is_chat
        self._has_logprobs = has_logprobs
        self._created = int(time.time())
        self._choices = [_Choice() for _ in plan.requests]

    def add(self, index: int, event: Event) -> None:
        """Note an event of a text."""
        choice = self._choices[index]
        if isinstance(event, FinishEvent):
            choice.finish_reason, choice.num_new_tokens = event.reason, event.num_new_tokens
        else:
            choice.text += event.text
            choice.logprobs += event.logprobs

    def whole(self) -> dict[str, Any]:
        """The answer, once every text has ended."""
        choices = []
        for index, choice in enumerate(self._choices):
            message = {"role": "assistant", "content": choice.text, "refusal": None}
            content = {"message": message} if self._is_chat else {"text": choice.text}
            logprobs = self._logprobs(choice.logprobs, 0)
            choices.append({"index": index, **content, "logprobs": logprobs, "finish_reason": choice.finish_reason})
        return {**self._head("chat.completion"), "choices": choices, "usage": self.usage()}

    def opening_chunks(self) -> list[dict[str, Any]]:
        """What a stream begins with: in a chat, whose message it is."""
        if not self._is_chat:
            return []
        return [
            self._chunk(index, {"role": "assistant", "content": ""}, None, None) for index in range(len(self._choices))
        ]

    def chunk(self, index: int, event: Event) -> dict[str, Any] | None:
        """The chunk of an event that was added; `None` if the event holds nothing for a client."""
        if isinstance(event, FinishEvent):
            return self._chunk(index, {} if self._is_chat else "", None, event.reason)
        if not event.text and not event.logprobs:
            return None
        before = len(self._choices[index].text) - len(event.text)
        logprobs = self._logprobs(event.logprobs, before)
        return self._chunk(index, {"content": event.text} if self._is_chat else event.text, logprobs, None)

    def usage_chunk(self) -> dict[str, Any]:
        """The last chunk of a stream whose client asked for the number of tokens."""
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": self.usage()}

    def usage(self) -> dict[str, Any]:
        """The number of tokens, the same whichever engine generates."""
        num_prompt = sum(len(prompt.ids) for prompt in self._plan.prompts)
        num_new = sum(choice.num_new_tokens for choice in self._choices)
        return {
            "prompt_tokens": num_prompt,
            "completion_tokens": num_new,
            "total_tokens": num_prompt + num_new,
            "prompt_tokens_details": {
                "cached_tokens": self._target.num_rows * len(self._plan.prompts),
                "truncated_tokens": sum(prompt.num_cut for prompt in self._plan.prompts),
            },
        }

    def _head(self, chat_object: str) -> dict[str, Any]:
        bundle = self._target.bundle
        return {
            "id": self.request_id,
            "object": chat_object if self._is_chat else "text_completion",
            "created": self._created,
            "model": self._target.model_id,
            "system_fingerprint": None if bundle is None else bundle.version,
        }

    def _chunk(self, index: int, content: Any, logprobs: Any, finish_reason: str | None) -> dict[str, Any]:
        name = "delta" if self._is_chat else "text"
        choice = {"index": index, name: content, "logprobs": logprobs, "finish_reason": finish_reason}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def _logprobs(self, found: Sequence[TokenLogprobs], start: int) -> dict[str, Any] | None:
        if not self._has_logprobs:
            return None
        text_of = self._target.base.token_text
        return _chat_logprobs(found, text_of) if self._is_chat else _text_logprobs(found, text_of, start)


def _chat_logprobs(found: Sequence[TokenLogprobs], text_of: Callable[[int], str]) -> dict[str, Any]:
    def entry(token_id: int, logprob: float) -> dict[str, Any]:
        text = text_of(token_id)
        return {"token": text, "logprob": max(logprob, LEAST_LOGPROB), "bytes": list(text.encode("utf-8", "replace"))}

    return {
        "content": [
            {**entry(one.token_id, one.logprob), "top_logprobs": [entry(*other) for other in one.top]} for one in found
        ],
        "refusal": None,
    }


def _text_logprobs(found: Sequence[TokenLogprobs], text_of: Callable[[int], str], start: int) -> dict[str, Any]:
    tokens = [text_of(one.token_id) for one in found]
    offsets = [start]
    for token in tokens:
        offsets.append(offsets[-1] + len(token))
    return {
        "tokens": tokens,
        "token_logprobs": [max(one.logprob, LEAST_LOGPROB) for one in found],
        "top_logprobs": [
            {text_of(token_id): max(logprob, LEAST_LOGPROB) for token_id, logprob in one.top} for one in found
        ],
        "text_offset": offsets[:-1],
    }
