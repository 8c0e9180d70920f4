"""Turns the ids of a request into text, as they come.

In: one id at a time. Out: the text that is final. A character can take several ids, a stop text can begin at the end of
one id and end in the next, and whitespace at the end of a task's text is no part of it: such text is held back until it
is decided.
"""

from collections.abc import Callable, Sequence


class TextStream:
    """The text of one request.

    Args:
        decode: Text of ids, without special tokens.
        stop: Texts that end the text; they are not part of it.
        is_stripped: Whether whitespace around the text is left out, as in evaluation.
    """

    def __init__(self, decode: Callable[[list[int]], str], *, stop: Sequence[str], is_stripped: bool) -> None:
        self._decode = decode
        self._stop = [text for text in stop if text]
        self._is_stripped = is_stripped
        self._has_begun = not is_stripped
        self._ids: list[int] = []
        # Ids from `_context` on are decoded again with new ones: a tokenizer may join a word's ids with a space or not.
        self._context = self._decoded = 0
        self._held = ""
        self.is_stopped = False
        """Whether a stop text has been met; nothing follows it."""

    def push(self, token_id: int) -> str:
        """Add an id; return the text that is final now."""
        self._ids.append(token_id)
        before = self._decode(self._ids[self._context : self._decoded])
        text = self._decode(self._ids[self._context :])
        if text.endswith("\N{REPLACEMENT CHARACTER}") or len(text) <= len(before):
            return ""  # the first bytes of a character
        self._context, self._decoded = self._decoded, len(self._ids)
        return self._release(text[len(before) :])

    def finish(self) -> str:
        """The rest of the text, when no id follows."""
        rest = "" if self.is_stopped else self._decode(self._ids[self._context :])
        rest = rest[len(self._decode(self._ids[self._context : self._decoded])) :]
        text = self._release(rest)
        held, self._held = self._held, ""
        return text if self.is_stopped else text + (held.rstrip() if self._is_stripped else held)

    def _release(self, new: str) -> str:
        """Add text; return what no stop text and no stripping can take back."""
        text = self._held + new
        if not self._has_begun:
            text = text.lstrip()
            self._has_begun = bool(text)
        starts = [place for place in (text.find(stop) for stop in self._stop) if place >= 0]
        if starts:
            self.is_stopped, self._held = True, ""
            text = text[: min(starts)]
            return text.rstrip() if self._is_stripped else text
        kept = max((_overlap(text, stop) for stop in self._stop), default=0)
        if self._is_stripped:
            body = text[: len(text) - kept].rstrip()
            kept = len(text) - len(body)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-size:])), 0)
