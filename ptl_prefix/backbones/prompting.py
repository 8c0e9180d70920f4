"""Encodes sources and targets as token ids, and decodes generated ids.

In: a tokenizer and a `PromptFormat`. Out: `Prompter`, the only place where [before][source][between][target][after]
is turned into ids, so that training, generation and serving cannot differ.

The parts are tokenised separately: the ids of a prompt do not depend on the target, and truncation of a source does not
affect the text around it. Only `{bos}` and `{eos}` of the format become special tokens; "<|endoftext|>" in a source or
target is tokenised as plain text.
"""

import hashlib
import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from ptl_prefix.artifacts.conversation import ContextPlace
from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.errors import BackboneError

_SPECIAL = re.compile(r"(\{bos\}|\{eos\})")
_ANCHOR = "a"
"""A word put before the format's text while it is tokenised, and removed again; see `_text_in_context`."""


class Prompter:
    """Encodes sources and targets and decodes generated ids, for one tokenizer and one format.

    Spaces: a source or target is separated from text before it by one space, unless `before` or `between` ends in
    whitespace. Byte-level tokenizers (GPT-2) get this space as part of the text; tokenizers that put a space before
    every text themselves (LLaMA's SentencePiece) do not. So write `between: " ##"`, not `" ## "`.

    If the tokenizer itself starts a text with its bos token (LLaMA), the prompt starts with it too.

    In an encoder-decoder, the source is surrounded by the special tokens that the tokenizer adds to a text; the target
    starts with `decoder_start_ids`.

    Args:
        tokenizer: The backbone's tokenizer.
        prompt_format: The task's format.
        decoder_start_id: Id that an encoder-decoder's target starts with; `None` for a decoder-only backbone.
        num_ids: Number of rows of the backbone's embeddings; `None` does not compare ids with it.

    Raises:
        ValueError: When the tokenizer lacks a special token that the format needs, or nothing would end a target.
        BackboneError: When an id of the format, or later of a text, is no row of the embeddings.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompt_format: PromptFormat,
        *,
        decoder_start_id: int | None = None,
        num_ids: int | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._num_ids = num_ids
        self._letters: dict[int, bool] = {}
        self.prompt_format = prompt_format
        self._adds_space = tokenizer.decode(self._plain([_ANCHOR])[0] * 2) == f"{_ANCHOR} {_ANCHOR}"
        self._source_lead = self._lead(prompt_format.before)
        if decoder_start_id is None:
            self._set_up_decoder_only(prompt_format)
        else:
            self._set_up_encoder_decoder(prompt_format, decoder_start_id)
        self.after_ids = self._segment_ids("after", prompt_format.after)
        if not self.after_ids:
            raise ValueError('`after` must give at least one id, so that a target ends, but is empty; use "{eos}".')
        self._check_ids([self.before_ids, self.between_ids, self.after_ids, self.decoder_start_ids or []])

    def _set_up_decoder_only(self, prompt_format: PromptFormat) -> None:
        """Prompt and target are one text."""
        self.decoder_start_ids: list[int] | None = None
        self.before_ids = self._segment_ids("before", prompt_format.before)
        self.between_ids = self._segment_ids("between", prompt_format.between)
        own_start, _ = self._own_frame()
        if own_start == [self._tokenizer.bos_token_id] and self.before_ids[:1] != own_start:
            self.before_ids = own_start + self.before_ids
        self._target_lead = self._lead("{source}" + prompt_format.between)

    def _set_up_encoder_decoder(self, prompt_format: PromptFormat, decoder_start_id: int) -> None:
        """Source and target are two texts, each with the tokenizer's own special tokens around it."""
        own_start, own_end = self._own_frame()
        before, between = (_SPECIAL.sub("", text).rstrip() for text in (prompt_format.before, prompt_format.between))
        self.before_ids = own_start + self._segment_ids("before", before)
        self.between_ids = self._segment_ids("between", between) + own_end
        # If the tokenizer starts a text with a special token (BART), the target starts with it too, untrained.
        self.decoder_start_ids = [decoder_start_id, *own_start]
        self._target_lead = ""

    def _own_frame(self) -> tuple[list[int], list[int]]:
        """The special tokens that the tokenizer itself adds before and after a text."""
        plain, framed = self._plain([_ANCHOR])[0], list(self._tokenizer(_ANCHOR).input_ids)
        for start in range(len(framed) - len(plain) + 1):
            if framed[start : start + len(plain)] == plain:
                return framed[:start], framed[start + len(plain) :]
        return [], []

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The ids that end a generated target."""
        return (self.after_ids[0],)

    @property
    def context_place(self) -> ContextPlace:
        """The place of a text that a prompt holds before its source; see `with_context`."""
        return "text"

    @property
    def unknown_id(self) -> int | None:
        """The id of text that the tokenizer does not know; `None` if it knows every text."""
        unknown_id: int | None = self._tokenizer.unk_token_id
        return unknown_id

    def stands_for_letters(self, token_id: int) -> bool:
        """Whether an id stands for a letter or a digit; the unknown token and other special ones do not."""
        if token_id not in self._letters:
            text = str(self._tokenizer.decode([token_id], skip_special_tokens=True))
            self._letters[token_id] = any(map(str.isalnum, text))
        return self._letters[token_id]

    @property
    def num_fixed_tokens(self) -> int:
        """Number of ids in a prompt besides those of the source."""
        return len(self.before_ids) + len(self.between_ids)

    @property
    def fingerprint(self) -> str:
        """A hash that changes with the tokenizer, the format, or the way in which ids are made from them."""
        tokenizer = self._tokenizer
        words = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else sorted(tokenizer.get_vocab().items())
        ids = (self.before_ids, self.between_ids, self.after_ids, self.decoder_start_ids)
        leads = (self._source_lead, self._target_lead)
        parts = (type(tokenizer).__name__, words, ids, leads, self.prompt_format)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def encode_source(self, text: str, max_tokens: int | None = None) -> list[int]:
        """The ids of a whole prompt: before, source, between. `max_tokens` is as in `source_ids`."""
        return self.prompt_ids(self.source_ids(text, max_tokens))

    def num_source_tokens(self, source_ids: Sequence[int]) -> int:
        """Number of ids by which a source makes a prompt longer than `num_fixed_tokens`."""
        return len(source_ids)

    def prompt_ids(self, source_ids: Sequence[int]) -> list[int]:
        """The ids of a whole prompt, given those of the source."""
        return [*self.before_ids, *source_ids, *self.between_ids]

    def source_ids(self, text: str, max_tokens: int | None = None) -> list[int]:
        """The ids of a source, truncated to the format's `max_source_tokens` and to `max_tokens`.

        Args:
            text: The source.
            max_tokens: Number of ids that fit the context window; `None` if there is no limit.

        Raises:
            ValueError: When the source is longer, and the format's `truncation` is `none`.
        """
        return self.cut_source(text, self.tokenize_sources([text])[0], max_tokens)

    def cut_source(self, text: str, ids: Sequence[int], max_tokens: int | None = None) -> list[int]:
        """Truncate the ids of a source, at the end that the format names; see `source_ids`.

        Args:
            text: The source.
            ids: Its ids, as `tokenize_sources` gives them.
            max_tokens: Most of its `num_source_tokens`; `None` if there is no limit.
        """
        limits = [limit for limit in (self.prompt_format.max_source_tokens, max_tokens) if limit is not None]
        num_tokens = self.num_source_tokens(ids)
        keep = max(min(limits, default=num_tokens), 0)
        if num_tokens <= keep:
            return list(ids)
        if self.prompt_format.truncation == "none":
            raise ValueError(
                f"A source must have at most {keep} tokens here, but has {num_tokens}; "
                "shorten it, or set `truncation` to 'right' or 'left'."
            )
        return self._shortened(text, ids, keep)

    def _shortened(self, text: str, ids: Sequence[int], keep: int) -> list[int]:
        """The ids of an over-long source, shortened to `keep` tokens."""
        return list(ids[:keep]) if self.prompt_format.truncation == "right" else list(ids[len(ids) - keep :])

    def encode_target(self, text: str) -> list[int]:
        """The ids of a target, with those of `after`."""
        return self.tokenize_targets([text])[0] + self.after_ids

    def tokenize_sources(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each source, not truncated."""
        return self._plain([self._source_lead + text if text else "" for text in texts])

    def tokenize_targets(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each target, without those of `after`."""
        return self._plain([self._target_lead + text if text else "" for text in texts])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated ids: up to the first stop id, without special tokens and surrounding whitespace."""
        text_ids = list(ids)
        for index, token in enumerate(text_ids):
            if token in self.stop_ids:
                del text_ids[index:]
                break
        text = self._tokenizer.decode(text_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text).strip()

    def _plain(self, texts: list[str]) -> list[list[int]]:
        """Tokenise texts without adding or recognising special tokens."""
        if not texts:
            return []
        # Not verbose: it would warn of texts that are longer than the model's limit, which are truncated later.
        encoded = self._tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False)
        all_ids = [list(ids) for ids in encoded.input_ids]
        self._check_ids(all_ids)
        return all_ids

    def _check_ids(self, all_ids: list[list[int]]) -> None:
        """Refuse ids that are no rows of the embeddings: on a GPU they would end the process."""
        largest = max((max(ids) for ids in all_ids if ids), default=0)
        if self._num_ids is not None and largest >= self._num_ids:
            raise BackboneError(
                f"An id that is used must be a row of the backbone's embeddings, from 0 to {self._num_ids - 1}, but "
                f"the tokenizer gives {largest}; use the tokenizer and the config.json that belong to the model."
            )

    def _lead(self, preceding: str) -> str:
        """The space between a text and the text before it, unless the tokenizer adds one itself."""
        return "" if self._adds_space or not preceding or preceding[-1].isspace() else " "

    def _segment_ids(self, name: str, text: str) -> list[int]:
        """The ids of one of the format's texts, with special tokens for `{bos}` and `{eos}`."""
        ids: list[int] = []
        for piece in filter(None, _SPECIAL.split(text)):
            ids += [self._special_id(name, piece)] if _SPECIAL.fullmatch(piece) else self._text_in_context(piece)
        return ids

    def _text_in_context(self, text: str) -> list[int]:
        r"""Tokenise text as in the middle of a text, without the space that some tokenizers put before every text.

        Otherwise LLaMA's "\n" would become the two ids of " \n", of which the first is no stop id.
        """
        anchor, anchored = self._plain([_ANCHOR, _ANCHOR + text])
        if anchored[: len(anchor)] == anchor:
            return anchored[len(anchor) :]
        return self._plain([text])[0]

    def _special_id(self, name: str, piece: str) -> int:
        """The id of the tokenizer's bos or eos token; eos stands in for a missing bos."""
        tokenizer = self._tokenizer
        wanted = (tokenizer.bos_token_id, tokenizer.eos_token_id) if piece == "{bos}" else (tokenizer.eos_token_id,)
        for token in wanted:
            if token is not None:
                return int(token)
        raise ValueError(
            f"`{name}` uses {piece}, but the tokenizer has no such token; "
            "give the tokenizer an eos, or write plain text there."
        )
