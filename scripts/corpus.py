"""Reads a text corpus for pretraining, and splits it into sentences and passages.

In: JSON lines with a column `text`, or plain text with one text per line; either may be compressed with xz. Out: texts
for training and held-out texts, and the sentences and passages of a text.
"""

import json
import lzma
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

HELD_OUT_EVERY = 50

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")


def read_texts(files: Sequence[Path]) -> list[str]:
    """Read the `text` of every line of every file; of a .txt, every non-empty line."""
    return [text for file in files for text in _texts_of(file)]


def _texts_of(file: Path) -> Iterator[str]:
    is_plain = file.name.removesuffix(".xz").endswith(".txt")
    with lzma.open(file) if file.suffix == ".xz" else file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield line.decode().strip() if is_plain else json.loads(line)["text"]
            except (ValueError, KeyError, TypeError) as error:
                expected = "UTF-8" if is_plain else "JSON with a column `text`"
                raise SystemExit(
                    f"Every line of {file} must be {expected}, but line {number} is not ({error!r}); "
                    "plain text must be in a .txt file."
                ) from error


def hold_out(texts: Sequence[str], rng: random.Random) -> tuple[list[str], list[str]]:
    """Shuffle texts, and split them into training texts and held-out texts (1 in `HELD_OUT_EVERY`)."""
    shuffled = list(texts)
    rng.shuffle(shuffled)
    held_out = shuffled[::HELD_OUT_EVERY]
    del shuffled[::HELD_OUT_EVERY]
    return shuffled, held_out


def sentences(text: str) -> Iterator[str]:
    """Split a text into sentences at end punctuation that precedes a capital letter."""
    return filter(None, _SENTENCE_END.split(text.strip()))


def passages(text: str, rng: random.Random, *, min_words: int, max_words: int) -> Iterator[list[str]]:
    """Yield passages: consecutive sentences of a paragraph, up to a word limit that is drawn for each passage.

    A sentence longer than the limit is its own passage. Sentences longer than `max_words` and passages shorter than
    `min_words` are dropped.
    """
    for paragraph in text.splitlines():
        passage: list[str] = []
        num_words, limit = 0, rng.randint(min_words, max_words)
        for sentence in (*sentences(paragraph), None):
            length = max_words + 1 if sentence is None else len(sentence.split())
            if num_words + length > limit:
                if num_words >= min_words:
                    yield passage
                passage, num_words, limit = [], 0, rng.randint(min_words, max_words)
            if sentence is not None and length <= max_words:
                passage.append(sentence)
                num_words += length
