"""The user's own conversations: messages of a system, users and an assistant, whose replies are learned.

In: the files that `text_pairs` reads, with conversations in one of the forms of `conversation_rows.py`. Out: one
example per reply, or per last reply: its source is the conversation before it, its target the reply.

So a conversation of several replies becomes several rows, each with all that came before it. In a causal model, the sum
of their losses is that of one row in which all replies are trained on. It costs the tokens of earlier turns again in
each row, and is right as well for templates that write earlier turns differently, as those of reasoning models do.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

from ptl_prefix.artifacts.conversation import source_of
from ptl_prefix.artifacts.prompt_format import ChatFormat, ChatTemplateName
from ptl_prefix.data.conversation_rows import Conversation, LeftOut, read_conversation
from ptl_prefix.data.example import Example
from ptl_prefix.data.file_task import FileTask
from ptl_prefix.data.task import Split
from ptl_prefix.errors import DataError
from ptl_prefix.settings import settings_from, with_settings_of


class Chat(FileTask):
    """Conversations of the user.

    Args:
        messages_column: Column with the messages; `None`: `messages`, `conversations`, or else `instruction`, `input`
            and `output`.
        train_on: Replies of a conversation that are examples, in every split: `all`, or the `last` one.
        chat_template: Template that renders conversations: the `backbone`'s own, or a built-in one.
        shared: Settings of `FileTask`.
    """

    version = "1"

    @settings_from("task/chat")
    @with_settings_of(FileTask.__init__, without=("between",))
    def __init__(
        self,
        *,
        messages_column: str | None,
        train_on: Literal["all", "last"],
        chat_template: ChatTemplateName,
        **shared: Any,
    ) -> None:
        super().__init__(between="", **shared)
        self.prompt = replace(self.prompt, chat=ChatFormat(name=chat_template))
        self._messages_column, self._train_on = messages_column, train_on

    def all_examples(self, split: Split) -> Iterator[Example]:
        """The replies of each conversation, in the order of the file; what is left out is counted in a note."""
        left_out: Counter[str] = Counter()
        num_rows = num_of_split = num_read = 0
        for row in self.rows(split):
            num_rows += 1
            conversation = read_conversation(row, self._messages_column)
            if isinstance(conversation, LeftOut):
                left_out[conversation.reason] += 1
                continue
            # Not by the whole conversation: another one that begins alike has an example with the same source.
            opening = source_of(conversation.opening())
            num_read += 1
            if self.is_divided(split) and self.division.split_of(opening) != split:
                continue
            num_of_split += 1
            yield from self._examples_of(conversation)
        self._add_notes(split, num_rows, num_read, num_of_split, left_out)

    def _examples_of(self, conversation: Conversation) -> Iterator[Example]:
        replies = conversation.replies()
        for place in replies if self._train_on == "all" else replies[-1:]:
            yield Example(
                source_of(conversation.messages[:place]), targets=(conversation.messages[place].content.strip(),)
            )

    def _add_notes(self, split: Split, num_rows: int, num_read: int, num_of_split: int, left_out: Counter[str]) -> None:
        counts = [
            f"{number} of {num_rows} conversations are left out, as they {why}" for why, number in left_out.items()
        ]
        if num_rows and not num_read:
            raise DataError(
                f"The {split} split of {self.name} must have a conversation that can be used, but has none: "
                f"{'; '.join(counts)}."
            )
        for count in counts:
            self.add_note(count if self.is_divided(split) else f"{split}: {count}")
        if self.is_divided(split) and split != "train":
            self.add_note(
                f"{num_of_split} of {num_read} conversations are the {split} split, chosen by a hash of what stands "
                "before their first reply"
            )

    def content_settings(self) -> tuple[object, ...]:
        """The settings that choose the messages and the replies."""
        text_format = (self.text_format.encoding, self.text_format.separator)
        return (self._messages_column, self._train_on, text_format)
