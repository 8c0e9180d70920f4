"""Conversations in the rows of a user's file.

In: a `FileRow` with OpenAI's `messages`, ShareGPT's `conversations`, or an instruction and its answer. Out: its
messages from the first to the last reply; or the reason why the row is left out, as the end of a sentence about
conversations. A row that is in none of these forms is an error.
"""

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from ptl_prefix.artifacts.conversation import Message, Role, order_problem
from ptl_prefix.artifacts.json_document import DocumentError, parse_json, shortened
from ptl_prefix.artifacts.source_template import cell_texts
from ptl_prefix.data.file_rows import FileRow
from ptl_prefix.errors import DataError

_MESSAGE_COLUMNS = ("messages", "conversations", "conversation")
_INPUTS, _OUTPUTS = ("input", "context"), ("output", "response")
_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
_TOOL_ROLES = {"tool", "function", "function_call", "observation"}
_TOOLS = "have tool calls or their results"
_NO_TEXT = "have images or other parts that are not text"


class Conversation(NamedTuple):
    """The messages of a row.

    Args:
        messages: Messages of user and assistant in turn, after at most one of the system; the last one is a reply.
        untrained: Indices of replies that are read but not trained on, by OpenAI's `weight: 0`.
    """

    messages: tuple[Message, ...]
    untrained: frozenset[int] = frozenset()

    def replies(self) -> list[int]:
        """Indices of the replies that are trained on."""
        places = (index for index, message in enumerate(self.messages) if message.role == "assistant")
        return [index for index in places if index not in self.untrained]

    def opening(self) -> tuple[Message, ...]:
        """The messages before the first reply."""
        return self.messages[: 1 + (self.messages[0].role == "system")]


class LeftOut(NamedTuple):
    """A row that is left out.

    Args:
        reason: End of a sentence about conversations, such as "have no reply".
    """

    reason: str


def read_conversation(row: FileRow, column: str | None = None) -> Conversation | LeftOut:
    """The conversation of a row.

    Args:
        row: Row of a file.
        column: Column with the messages; `None`: the first of `messages` and `conversations` that the row has, or else
            `instruction`, `input` and `output`.

    Raises:
        DataError: The row has no such columns, or other values in them.
    """
    name = column or next((name for name in _MESSAGE_COLUMNS if name in row.cells), None)
    if name is None and "instruction" in row.cells:
        return _instruction(row)
    if name is None or name not in row.cells:
        wanted = f"the column '{column}'" if column else f"one of {', '.join(_MESSAGE_COLUMNS)}, or instruction"
        raise DataError(
            f"{row.place}: each row must have {wanted}, but this one has {', '.join(row.cells) or 'none'}; choose the "
            "column of the messages with `task.messages_column=<name>`."
        )
    return _conversation(row, _listed(row, name))


def _instruction(row: FileRow) -> Conversation | LeftOut:
    """An instruction, its input if there is one, and the answer."""
    question = [_cell(row, "instruction"), *(_cell(row, name) for name in _INPUTS if name in row.cells)]
    output = next((name for name in _OUTPUTS if name in row.cells), None)
    if output is None:
        raise DataError(f"{row.place}: a row with an `instruction` must have `output`, but has {', '.join(row.cells)}.")
    messages = [
        {"role": "user", "content": "\n\n".join(filter(None, question))},
        {"role": "assistant", "content": _cell(row, output)},
    ]
    return _conversation(row, messages)


def _cell(row: FileRow, name: str) -> str:
    cell = row.cells[name]
    texts = [] if cell is None else cell_texts(cell)
    if texts is None:
        raise DataError(f"{row.place}: '{name}' must be text, but is {shortened(cell)}; correct the row, or remove it.")
    return " ".join(texts)


def _listed(row: FileRow, name: str) -> list[Any]:
    """The list in a column, which may be written as JSON, as in a CSV file."""
    cell = row.cells[name]
    if isinstance(cell, str):
        with contextlib.suppress(DocumentError):  # refused below, with the text
            cell = parse_json(cell)
    if not isinstance(cell, list):
        raise DataError(
            f"{row.place}: '{name}' must be a list of messages, but is {shortened(cell)}; correct the row, or "
            "remove it."
        )
    return cell


def _conversation(row: FileRow, values: Sequence[Any]) -> Conversation | LeftOut:
    messages: list[Message] = []
    untrained = set()
    if (system := row.cells.get("system")) and not (values and _role_of(values[0]) in ("system", "developer")):
        values = [{"role": "system", "content": system}, *values]
    for value in values:
        message = _message(row, value)
        if isinstance(message, LeftOut):
            return message
        if message.content.strip():
            if value.get("weight") == 0:
                untrained.add(len(messages))
            messages.append(message)
        elif message.role != "system":
            return LeftOut("have an empty message")
    while messages and messages[-1].role != "assistant":
        messages.pop()
    if not messages:
        return LeftOut("have no reply of the assistant")
    if order_problem(messages) is not None:
        return LeftOut("are not messages of user and assistant in turn, after at most one of the system")
    return Conversation(tuple(messages), frozenset(untrained))


def _message(row: FileRow, value: Any) -> Message | LeftOut:
    role = _role_of(value)
    if not isinstance(role, str):
        raise DataError(
            f"{row.place}: each message must be an object with `role` and `content`, or `from` and `value`, but one is "
            f"{shortened(value)}; correct the row, or remove it."
        )
    if role in _TOOL_ROLES or value.get("tool_calls") or value.get("function_call"):
        return LeftOut(_TOOLS)
    if role not in _ROLES:
        return LeftOut("have roles other than system, user and assistant")
    content = value["content"] if "content" in value else value.get("value")
    if isinstance(content, list):  # OpenAI's parts
        if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
            return LeftOut(_NO_TEXT)
        content = "".join(part["text"] for part in content)
    content = "" if content is None else content
    if not isinstance(content, str) or cell_texts(content) is None:
        raise DataError(
            f"{row.place}: the content of a message must be text, but one is {shortened(content)}; correct the row, or "
            "remove it."
        )
    return Message(_ROLES[role], content)


def _role_of(value: Any) -> object:
    return value.get("role", value.get("from")) if isinstance(value, dict) else None
