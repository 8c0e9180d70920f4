"""The format of prompts: how a source becomes the text that a backbone continues.

In: nothing. Out: `PromptFormat`. A task defines it, encoding applies it, and a bundle stores it, so that prompts are
the same in training and serving. `backbones/prompting.py` turns it into ids, and `backbones/chat_prompting.py` if it
has a chat template.
"""

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, MaxLen

ChatTemplateName = Literal["backbone", "chatml", "llama3", "gemma"]
"""The backbone's own chat template, or a built-in one."""
MAX_TEMPLATE_CHARACTERS = 2**20


@dataclass(frozen=True, kw_only=True)
class ChatFormat:
    """The chat template that renders conversations.

    The text is kept to be read. What is rendered is the template that this name has where the bundle is used, and only
    if its hash is the same: a template is never run from a bundle.

    Args:
        name: Name of a built-in template; `backbone` is the backbone's own.
        text: The template; `None` until the backbone is known.
        sha256: Hash of the template; `None` as for `text`.
    """

    name: ChatTemplateName
    text: Annotated[str, MaxLen(MAX_TEMPLATE_CHARACTERS)] | None = None
    sha256: Annotated[str, MaxLen(64)] | None = None


@dataclass(frozen=True, kw_only=True)
class PromptFormat:
    """The parts of an example's ids: [before][source][between][target][after].

    `before`, `between` and `after` are text in which `{bos}` and `{eos}` stand for the tokenizer's special ids. An
    encoder-decoder encodes [before][source][between] and decodes [target][after]; there the special ids that its own
    tokenizer puts around a text replace those of `before` and `between`. With `chat`, the chat template writes all
    that is around source and target, and these three are empty.

    Args:
        before: Text before the source.
        between: Text between the source and the target; the prompt ends with it.
        after: Text at the end of the target; its first id ends generation. It is trained on, like the target.
        max_source_tokens: Longest source in tokens; `None`: limited by the backbone's positions only.
        truncation: End at which an over-long source is cut, `right` or `left`; `none` refuses such a source.
        source_template: Text of a source with `{name}` for each of the user's columns; `None`: the source is given.
        chat: Chat template of a task whose sources are conversations; `None` for other tasks.
    """

    before: str = ""
    between: str = " {bos}"
    after: str = "{eos}"
    max_source_tokens: Annotated[int, Ge(0), Le(2**31)] | None = None
    truncation: Literal["right", "left", "none"] = "right"
    # Not in the `repr`, which is part of the keys of caches that users have; `Prompter.fingerprint` adds `chat`.
    source_template: Annotated[str, MaxLen(MAX_TEMPLATE_CHARACTERS)] | None = field(default=None, repr=False)
    chat: ChatFormat | None = field(default=None, repr=False)

    def agrees_with(self, other: "PromptFormat") -> bool:
        """Whether both make the same prompts of a task's sources, for all that is known before a backbone is."""
        return _known_early(self) == _known_early(other)


def stored_values(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a format without the fields that earlier versions lacked, where these hold nothing."""
    later = ("source_template", "chat")
    return {name: value for name, value in values.items() if name not in later or value is not None}


def _known_early(prompt: PromptFormat) -> PromptFormat:
    chat = None if prompt.chat is None else ChatFormat(name=prompt.chat.name)
    return replace(prompt, source_template=None, chat=chat)
