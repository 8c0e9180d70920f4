"""The denoising objectives of encoder-decoders: corrupted text is the source, and the target restores it.

In: a passage as a list of sentences. Out: a `Row` of source and target ids. BART's target is the whole text, T5's only
the missing spans.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

MASK = "<mask>"
NUM_SENTINELS = 100
SENTINELS = tuple(f"<extra_id_{number}>" for number in range(NUM_SENTINELS))

_MEAN_SPAN = 3
_MAX_TOKENS = 96
"""Longer passages are truncated."""


@dataclass(frozen=True)
class Row:
    """Source and target ids, both with the tokenizer's special tokens."""

    source: list[int]
    target: list[int]


class TextInfilling:
    """BART's text infilling (Lewis et al., 2020): permute sentences, and replace each span of tokens by one mask.

    Span lengths have a Poisson distribution with mean 3; a span of length 0 inserts a mask. The target is the whole
    text, so most of it can be copied from the source.

    Args:
        tokenizer: Tokenizer with BART's special tokens, including the mask.
        masked_share: Share of the source's tokens that are masked.
        permutes: Whether sentences are permuted.
    """

    def __init__(self, tokenizer: Tokenizer, *, masked_share: float = 0.3, permutes: bool = True) -> None:
        self._tokenizer = tokenizer
        self._mask = _id_of(tokenizer, MASK)
        self._masked_share = masked_share
        self._permutes = permutes

    def row(self, passage: Sequence[str], rng: np.random.Generator) -> Row:
        """Corrupt one passage with newly drawn noise."""
        target = _framed_ids(self._tokenizer, " ".join(passage))
        order = rng.permutation(len(passage)) if self._permutes else range(len(passage))
        first, *tokens, last = _framed_ids(self._tokenizer, " ".join(passage[index] for index in order))
        source = [first]
        for kept, _ in segments(tokens, self._lengths(len(tokens), rng), rng):
            source += [*kept, self._mask]
        return Row([*source[:-1], last], target)

    def _lengths(self, num_tokens: int, rng: np.random.Generator) -> list[int]:
        """Draw span lengths until their sum is the number of tokens to mask."""
        num_masked, lengths = round(self._masked_share * num_tokens), list[int]()
        while sum(lengths) < num_masked:
            lengths.append(min(int(rng.poisson(_MEAN_SPAN)), num_masked - sum(lengths)))
        return lengths


class SpanCorruption:
    """T5's span corruption (Raffel et al., 2020): sentinels replace spans; the target is each sentinel with its span.

    Args:
        tokenizer: Tokenizer with T5's end token and sentinels.
        masked_share: Share of the source's tokens that are masked.
    """

    def __init__(self, tokenizer: Tokenizer, *, masked_share: float = 0.15) -> None:
        self._tokenizer = tokenizer
        self._sentinels = [_id_of(tokenizer, sentinel) for sentinel in SENTINELS]
        self._masked_share = masked_share

    def row(self, passage: Sequence[str], rng: np.random.Generator) -> Row:
        """Corrupt one passage with newly drawn noise."""
        *tokens, end = _framed_ids(self._tokenizer, " ".join(passage))
        source, target = list[int](), list[int]()
        lengths = self._lengths(len(tokens), rng)
        for sentinel, (kept, span) in zip(self._sentinels, segments(tokens, lengths, rng), strict=False):
            source += [*kept, sentinel]
            target += [sentinel, *span]
        # The last segment has no span. Its sentinel is removed from the source, and ends the target.
        return Row([*source[:-1], end], [*target, end])

    def _lengths(self, num_tokens: int, rng: np.random.Generator) -> list[int]:
        """Draw span lengths of at least 1, with the fixed mean, whose sum is the number of tokens to mask."""
        num_masked = max(round(self._masked_share * num_tokens), 1)
        num_spans = max(round(num_masked / _MEAN_SPAN), 1)
        cuts = np.sort(rng.choice(num_masked - 1, num_spans - 1, replace=False)) + 1
        return [int(length) for length in np.diff([0, *cuts, num_masked])]


Noise = TextInfilling | SpanCorruption


def segments(
    tokens: Sequence[int], lengths: Sequence[int], rng: np.random.Generator
) -> list[tuple[Sequence[int], Sequence[int]]]:
    """Split tokens randomly into pairs (kept tokens, span) with the given span lengths; the last pair has no span.

    Spans are in random order, with at least one kept token between two of them. Spans that cannot be separated are
    dropped.
    """
    num_kept = len(tokens) - sum(lengths)
    positions = np.sort(rng.choice(num_kept + 1, min(len(lengths), num_kept + 1), replace=False))
    pairs, start, kept_before = [], 0, 0
    for position, length in zip(positions, rng.permutation(lengths).astype(int), strict=False):
        end_of_kept = start + int(position) - kept_before
        pairs.append((tokens[start:end_of_kept], tokens[end_of_kept : end_of_kept + length]))
        start, kept_before = end_of_kept + length, int(position)
    return [*pairs, (tokens[start:], tokens[:0])]


def _framed_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text).ids
    return ids if len(ids) <= _MAX_TOKENS else [*ids[: _MAX_TOKENS - 1], ids[-1]]


def _id_of(tokenizer: Tokenizer, token: str) -> int:
    number = tokenizer.token_to_id(token)
    assert number is not None
    return int(number)
