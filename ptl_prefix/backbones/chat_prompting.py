"""Encodes conversations as token ids, with a chat template.

In: a tokenizer and a `PromptFormat` with a chat template. Out: `ChatPrompter`, which does for conversations what
`Prompter` does for other sources. A prompt is the rendered conversation with the template's start of a reply; the reply
is followed by what the template writes after one, up to its first special token, which ends generation.

Ids are those of the whole rendered text, as transformers' `apply_chat_template` gives them, with one exception: where a
message itself holds one of the template's or the tokenizer's special tokens, it is tokenised as plain text. A message
cannot end its turn or begin another one. What a template writes before a reply, and not at the end of a prompt, is
added to the prompt.

An over-long conversation loses its oldest turns, each message of the user together with its reply; the system's message
stays. If the last message alone is too long, its text is cut at the end that the format's `truncation` names, and then
that of the system's message. What the template writes is never cut.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from ptl_prefix.artifacts.conversation import ContextPlace, Message, messages_of
from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.backbones.chat_rendering import render, resolve_template, special_values
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.errors import DataError

_START, _END = "\ufdd0", "\ufdd1"
"""Put around a special token in a message. Unicode assigns these no character, and texts that hold them lose them."""
_CONTEXT = "\n"
"""Text before a piece while it is tokenised, so that it is tokenised as in the middle of a text."""
_REPLY = "almond"
_SYSTEM, _QUESTION = Message("system", "quince"), Message("user", "walnut")
"""Messages in words that no template writes by itself."""


class ChatPrompter(Prompter):
    """Encodes conversations and replies, and decodes generated ids, for one tokenizer and one chat template.

    Sources are as in `artifacts/conversation.py`. `num_fixed_tokens` counts what the template writes around a message
    of the system and one of the user.

    If the template writes no special token after a reply, or the tokenizer does not have it, the tokenizer's
    end-of-text token ends a reply. A built-in template's text starts with the bos token if the tokenizer starts a text
    with it.

    Args:
        tokenizer: The backbone's tokenizer.
        prompt_format: The task's format, or a bundle's.
        num_ids: Number of rows of the backbone's embeddings; `None` does not compare ids with it.

    Raises:
        ValueError: When there is no such template, it is another one than in training, or it renders no conversation.
        BackboneError: When an id of the template, or later of a text, is no row of the embeddings.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, prompt_format: PromptFormat, *, num_ids: int | None = None
    ) -> None:
        if prompt_format.chat is None:
            raise ValueError("`chat` must name a chat template, but is None; use `Prompter` for other sources.")
        chat = resolve_template(prompt_format.chat, tokenizer)
        self._template, self._values = str(chat.text), special_values(tokenizer)
        super().__init__(tokenizer, replace(prompt_format, chat=chat), num_ids=num_ids)
        self._stop_id = self.after_ids[0]
        self._tail = ""
        self._special = re.compile("(?!)")
        self._system_refusal = self._why_no_system()
        self._special = self._special_tokens()
        self._set_up_reply()
        start = self._tokens([self._rendered([_QUESTION])])[0][: len(self.before_ids)]
        if chat.name == "backbone" or start == self.before_ids:
            self.before_ids = []
        self._num_fixed = max(map(len, self._tokens([self._rendered(messages) for messages in self._empty()])))

    def _set_up_reply(self) -> None:
        """Find what the template writes before a reply besides its start, and after it."""
        prompt = self._checked([_QUESTION], is_prompt=True)
        whole = self._checked([_QUESTION, Message("assistant", _REPLY)])
        place = whole.rfind(_REPLY)
        if place < 0 or _QUESTION.content not in prompt:
            raise ValueError("The chat template must write each message, but leaves one out; choose another one.")
        lead = whole[len(prompt) : place] if whole.startswith(prompt) else ""
        # Such as Qwen's empty thoughts, which belong to the prompt; LLaMA 2's space belongs to the word after it.
        self._target_lead, self._tail = (lead, "") if not lead.strip() else ("", lead)
        self._before_reply = self._last_turn(prompt + self._tail)
        before_end = f"{self._before_reply}{self._target_lead}{_REPLY}"
        after = self._in_context([whole[place + len(_REPLY) :]], before_end)[0]
        ends = [index for index, token in enumerate(after) if token in self._added_ids()]
        if ends:
            self.after_ids = after[: ends[0] + 1]
            self._stop_id = self.after_ids[-1]

    def _last_turn(self, prompt: str) -> str:
        """A prompt from its last special token on: on no more of it the ids of what follows depend."""
        places = [match.start() for match in self._special.finditer(prompt)]
        return prompt[places[-1] :] if places else prompt

    def _why_no_system(self) -> str | None:
        """Why the template refuses a message of the system; `None` if it renders one."""
        try:
            text = render(self._template, [_SYSTEM, _QUESTION], is_prompt=True, values=self._values)
        except ValueError as error:
            return str(error)
        return None if _SYSTEM.content in text else "it leaves it out"

    def _checked(self, messages: list[Message], *, is_prompt: bool = False) -> str:
        """A rendering of the template's first conversations, on which its use depends."""
        try:
            return render(self._template, messages, is_prompt=is_prompt, values=self._values)
        except ValueError as error:
            raise ValueError(
                f"The chat template must render a question and its answer, but {error}; choose a built-in one with "
                "task.chat_template=chatml (or llama3, gemma)."
            ) from error

    def _added_ids(self) -> set[int]:
        """The tokens that are more than text; a tokenizer may hold lines of spaces as such, which are text."""
        return {token_id for token, token_id in self._tokenizer.added_tokens_encoder.items() if token.strip()}

    def _special_tokens(self) -> re.Pattern[str]:
        """Those of the tokenizer that are special, and those that the template writes into a conversation."""
        conversation = [_QUESTION, Message("assistant", _REPLY), _QUESTION]
        written = self._checked(conversation, is_prompt=True) + self._checked(conversation[:2])
        added = self._tokenizer.added_tokens_decoder.values()
        tokens = {str(one.content) for one in added if one.special or (one.content.strip() and one.content in written)}
        longest_first = sorted(tokens, key=lambda token: (-len(token), token))
        return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def _empty(self) -> list[list[Message]]:
        """The conversations of which nothing but the template's own text is left."""
        user, system = Message("user", ""), Message("system", "")
        return [[user]] if self._system_refusal else [[user], [system, user]]

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The ids that end a generated reply."""
        return (self._stop_id,)

    @property
    def context_place(self) -> ContextPlace:
        """The system's message, or the user's first one, where the template refuses one of the system."""
        return "user" if self._system_refusal else "system"

    @property
    def num_fixed_tokens(self) -> int:
        """Number of ids in a prompt besides those of the messages."""
        return len(self.before_ids) + self._num_fixed

    @property
    def fingerprint(self) -> str:
        """A hash that changes with the tokenizer, the template, or the way in which ids are made from them."""
        assert self.prompt_format.chat is not None
        parts = (super().fingerprint, self.prompt_format.chat.sha256, self._tail, self._stop_id, self._special.pattern)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def num_source_tokens(self, source_ids: Sequence[int]) -> int:
        """Number of ids by which a conversation makes a prompt longer than `num_fixed_tokens`."""
        return max(len(source_ids) - self._num_fixed, 0)

    def tokenize_sources(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each rendered conversation, not truncated.

        Raises:
            DataError: A source is no conversation, or the template refuses it.
        """
        return self._tokens([self._rendered_source(text) for text in texts])

    def tokenize_targets(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each reply, without those of its end."""
        marked = [self._target_lead + self._marked(text) if text else "" for text in texts]
        return self._in_context(marked, self._before_reply)

    def _rendered_source(self, text: str) -> str:
        try:
            return self._rendered(messages_of(text))
        except ValueError as error:
            raise DataError(str(error)) from error

    def _rendered(self, messages: Sequence[Message]) -> str:
        """The prompt of a conversation as text, in which special tokens of messages are marked."""
        if messages[0].role == "system" and self._system_refusal:
            raise DataError(
                f"The chat template must render each message, but refuses one of the system ({self._system_refusal}); "
                "move its text into the first message of the user, or set task.chat_template=gemma, which does."
            )
        marked = [Message(message.role, self._marked(message.content)) for message in messages]
        try:
            return render(self._template, marked, is_prompt=True, values=self._values) + self._tail
        except ValueError as error:
            raise DataError(
                f"The chat template must render each conversation, but for the one that ends with "
                f"{messages[-1].content:.60!r} {error}; correct it, or remove it."
            ) from error

    def _marked(self, text: str) -> str:
        text = text.replace(_START, "").replace(_END, "")
        return self._special.sub(f"{_START}\\g<0>{_END}", text)

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of rendered texts: special tokens become their ids, except marked ones."""
        # Most texts have no marks, and are tokenised together.
        firsts = [re.split(f"[{_START}{_END}]", text, maxsplit=1)[0] for text in texts]
        all_ids = self._recognised(firsts)
        for ids, text, first in zip(all_ids, texts, firsts, strict=True):
            ids += self._marked_tokens(text[len(first) :])
        self._check_ids(all_ids)
        return all_ids

    def _marked_tokens(self, text: str) -> list[int]:
        """The ids of text that starts with a mark, in the middle of a text."""
        ids: list[int] = []
        # A template that cuts texts may leave a mark alone: it stands for nothing.
        for piece in filter(None, re.split(f"({_START}[^{_START}{_END}]*{_END})|[{_START}{_END}]", text)):
            is_plain = piece[0] == _START
            ids += self._plain_piece(piece[1:-1]) if is_plain else self._without_context(piece)
        return ids

    def _plain_piece(self, token: str) -> list[int]:
        """The ids of a special token's text, none of which is special."""
        ids = self._in_plain_context(token)
        if len(token) > 1 and set(ids) & self._added_ids():
            return self._in_plain_context(token[0]) + self._plain_piece(token[1:])
        return ids

    def _in_plain_context(self, text: str) -> list[int]:
        context, whole, alone = self._plain([_CONTEXT, _CONTEXT + text, text])
        return whole[len(context) :] if whole[: len(context)] == context else alone

    def _without_context(self, text: str) -> list[int]:
        context, whole, alone = self._recognised([_CONTEXT, _CONTEXT + text, text])
        return whole[len(context) :] if whole[: len(context)] == context else alone

    def _in_context(self, texts: Sequence[str], before: str) -> list[list[int]]:
        """The ids of texts as after another text."""
        context = self._recognised([before])[0]
        all_ids = self._tokens([before + text for text in texts])
        return [
            ids[len(context) :] if ids[: len(context)] == context else self._tokens([text])[0]
            for ids, text in zip(all_ids, texts, strict=True)
        ]

    def _recognised(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenise texts in which special tokens are recognised, and none are added."""
        if not texts:
            return []
        encoded = self._tokenizer(list(texts), add_special_tokens=False, split_special_tokens=False, verbose=False)
        return [list(ids) for ids in encoded.input_ids]

    def _shortened(self, text: str, ids: Sequence[int], keep: int) -> list[int]:
        """The ids of an over-long conversation, shortened to `keep` tokens by the rules at the top of this file."""
        messages = messages_of(text)
        system, turns = (messages[:1], messages[1:]) if messages[0].role == "system" else ([], messages)
        while len(turns) > 1:
            turns = turns[2:]
            if (fitting := self._fitting([*system, *turns], keep)) is not None:
                return fitting
        kept = [*system, *turns]
        for place in reversed(range(len(kept))):
            content = self._plain([kept[place].content])[0]
            while content:
                excess = len(self._tokens([self._rendered(kept)])[0]) - self._num_fixed - keep
                num_kept = max(len(content) - max(excess, 1), 0)
                cuts_start = self.prompt_format.truncation == "left" and kept[place].role == "user"
                content = content[len(content) - num_kept :] if cuts_start else content[:num_kept]
                kept[place] = Message(kept[place].role, self._text_of(content))
                if (fitting := self._fitting(kept, keep)) is not None:
                    return fitting
        raise DataError(
            f"The chat template must need at most {self._num_fixed + keep} tokens for a conversation without text, but "
            "needs more; shorten the prefix, or choose another template."
        )

    def _fitting(self, messages: Sequence[Message], keep: int) -> list[int] | None:
        ids = self._tokens([self._rendered(messages)])[0]
        return ids if self.num_source_tokens(ids) <= keep else None

    def _text_of(self, ids: list[int]) -> str:
        text = self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(text).strip("\ufffd")  # halves of characters at the cut
