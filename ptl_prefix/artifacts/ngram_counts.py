"""Hashed n-gram counts: the numbers by which a server tells the texts of its tasks apart.

In: texts. Out: `NgramCounts`, one sparse row for each text. A column is a hash of a word, a sign of punctuation, or two
of them in a row. A bundle stores such counts, so the hash, the number of columns and what counts as a word are part of
the bundle's format: a change to one of them needs another name than `SCHEME`.
"""

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ptl_prefix.artifacts.json_document import DocumentError, parse_json

SCHEME: Literal["words_1_2"] = "words_1_2"
"""The name of this way to count in a bundle's manifest."""
NUM_COLUMNS = 2**15
MAX_CHARACTERS = 20_000
"""Characters of a text that are counted; the rest is left out, so that a long request costs no more."""
_TOKENS = r"\w+|[^\w\s]"
_CHUNK_TEXTS = 256

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class NgramCounts:
    """The n-grams of some texts as sparse rows.

    Args:
        starts: For each text the index of its first entry, and the number of all entries at the end.
        columns: Column of each entry, increasing within a row.
        counts: How often the n-grams of the column occur in the text, at least once.
    """

    starts: Integers
    columns: Integers
    counts: Integers

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> Integers:
        """The number of n-grams of each text."""
        ends = np.concatenate([[0], np.cumsum(self.counts)])
        lengths: Integers = ends[self.starts[1:]] - ends[self.starts[:-1]]
        return lengths

    @property
    def rows(self) -> Integers:
        """The row of each entry."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))


def count_ngrams(texts: Sequence[str]) -> NgramCounts:
    """Count the n-grams of each text."""
    if not texts:
        return NgramCounts(np.zeros(1, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64))
    # Lone surrogates, which JSON can carry, have no UTF-8 form to hash.
    readable = [text[:MAX_CHARACTERS].encode("utf-8", "replace").decode() for text in texts]
    found = _vectorizer().transform(readable)
    return NgramCounts(
        found.indptr.astype(np.int64), found.indices.astype(np.int64), np.rint(found.data).astype(np.int64)
    )


def total_ngrams(texts: Iterable[str]) -> tuple[Integers, int]:
    """The counts of all texts together, for each column, and the number of texts; few texts are in memory at once."""
    totals, num_texts = np.zeros(NUM_COLUMNS, dtype=np.int64), 0
    for chunk in _chunks(texts):
        counted = count_ngrams(chunk)
        np.add.at(totals, counted.columns, counted.counts)
        num_texts += len(chunk)
    return totals, num_texts


def one_row(totals: Integers) -> NgramCounts:
    """The counts of all columns as one sparse row."""
    columns = np.flatnonzero(totals)
    return NgramCounts(np.array([0, len(columns)]), columns, totals[columns])


def routed_text(source: str) -> str:
    """The part of a source that routing reads: of a chat its last user message, else all of it.

    A chat is a JSON list of messages, or an object with such a list as `messages`; a message has `role` and `content`.
    """
    if '"role"' not in source:
        return source
    try:
        value = parse_json(source, finite=False)
    except DocumentError:
        return source
    messages = value.get("messages") if isinstance(value, dict) else value
    return (last_user_text(messages) if isinstance(messages, list) else None) or source


def last_user_text(messages: Sequence[Any]) -> str | None:
    """The text of the last message of a chat whose `role` is `user`; `None` if there is none."""
    for message in reversed(messages):
        if isinstance(message, dict) and message.get("role") == "user" and isinstance(message.get("content"), str):
            return str(message["content"])
    return None


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    remaining = iter(texts)
    while chunk := list(itertools.islice(remaining, _CHUNK_TEXTS)):
        yield chunk


@functools.cache
def _vectorizer() -> Any:
    # Imported here: scikit-learn takes a second, and most users of a bundle count nothing.
    from sklearn.feature_extraction.text import HashingVectorizer

    return HashingVectorizer(
        n_features=NUM_COLUMNS, ngram_range=(1, 2), token_pattern=_TOKENS, alternate_sign=False, norm=None
    )
