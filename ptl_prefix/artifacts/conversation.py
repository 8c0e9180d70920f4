"""A conversation as the source of an example.

In: messages, or a source. Out: the source, or the messages. One message of a user is its own text, so that predictions
and samples can be read; any other conversation is a JSON list of `{"role": ..., "content": ...}`.

`with_context` puts a text before a conversation: the teacher of a self-study reads chunks of a document so, and an
evaluation the whole document.
"""

import json
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from ptl_prefix.artifacts.json_document import DocumentError, parse_json

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant")
ContextPlace = Literal["system", "user", "text"]
"""Where a text stands before a conversation: a message of the system, the user's first message, or plain text."""


class Message(NamedTuple):
    """One message of a conversation."""

    role: Role
    content: str


def source_of(messages: Sequence[Message]) -> str:
    """The source that stands for a conversation; `messages_of` reads it back."""
    if len(messages) == 1 and messages[0].role == "user" and _listed(messages[0].content) is None:
        return messages[0].content
    return json.dumps([message._asdict() for message in messages], ensure_ascii=False)


def messages_of(source: str) -> list[Message]:
    """The messages of a source: a JSON list of messages is a conversation, any other text one message of a user.

    So is the list in an object `{"messages": [...]}`, as files of conversations have it.

    Raises:
        ValueError: The conversation is none that a reply can follow.
    """
    values = _listed(source)
    if values is None:
        return [Message("user", source)]
    for value in values:
        if set(value) != {"role", "content"} or value["role"] not in ROLES or not isinstance(value["content"], str):
            raise ValueError(
                "Each message of a conversation must be an object of `role` (system, user or assistant) and `content`, "
                f"a text, but one is {value!s:.80}; correct it."
            )
    messages = [Message(value["role"], value["content"]) for value in values]
    if (fact := order_problem(messages)) or messages[-1].role != "user":
        raise ValueError(
            "A conversation must be messages of user and assistant in turn, after at most one of the system, and end "
            f"with the user's, but {fact or 'it ends with the reply'}: {source:.80}; correct it."
        )
    return messages


def with_context(messages: Sequence[Message], text: str, *, place: ContextPlace = "system") -> list[Message]:
    """A conversation whose prompt holds a text before it.

    Args:
        messages: The conversation.
        text: The text, such as a chunk of a document.
        place: Place of the text: `prompter.context_place` is the one that a backbone's chat template has.
    """
    if place == "text":
        return [Message(messages[0].role, f"{text}\n\n{messages[0].content}"), *messages[1:]]
    context = f"Answer with the help of this text:\n\n{text}"
    if place == "user":
        return [Message(messages[0].role, f"{context}\n\n{messages[0].content}"), *messages[1:]]
    if messages[0].role == "system":
        return [Message("system", f"{context}\n\n{messages[0].content}"), *messages[1:]]
    return [Message("system", context), *messages]


def order_problem(messages: Sequence[Message]) -> str | None:
    """Why messages are no conversation, as the end of a sentence; `None` if they are one."""
    turns = messages[1:] if messages and messages[0].role == "system" else messages
    if not turns:
        return "it has no message of a user"
    for number, message in enumerate(turns):
        expected = "assistant" if number % 2 else "user"
        if message.role != expected:
            return f"one of the {message.role} stands where one of the {expected} should"
    return None


def readable_source(source: str) -> str:
    """A source as a person reads it: each message of a conversation after its role; any other text as it is."""
    if _listed(source) is None:
        return source
    try:
        return "\n".join(f"{message.role}: {message.content}" for message in messages_of(source))
    except ValueError:
        return source


def _listed(source: str) -> list[dict[str, Any]] | None:
    """The objects of a JSON list of messages; `None` if a text is none."""
    if not source.lstrip().startswith(("[", "{")):
        return None
    try:
        values = parse_json(source)
    except DocumentError:
        return None
    values = values.get("messages") if isinstance(values, dict) else values
    is_one = isinstance(values, list) and values and all(isinstance(one, dict) and "role" in one for one in values)
    return values if is_one else None
