"""A document in the tokens of a backbone, and the chunks of it that a teacher reads.

In: a text, and a backbone. Out: `StudyDocument`; chunks whose places are spread evenly over it and whose lengths
are drawn, the long ones more often; and the chunk that a question is most likely about.
"""

import math
import random
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.token_spans import token_spans
from ptl_prefix.errors import DataError

Chunk = tuple[int, int]
"""First token and end of a part of a document."""

_BOUNDARY = re.compile(r"(?:(?<=[.!?])[\"')\]]*\s+|\n+\s*)(?=\S)")
"""What lies before a sentence, a line or a paragraph."""
_GOLDEN = (math.sqrt(5) - 1) / 2


class StudyDocument:
    """A text and its tokens.

    Args:
        text: The text.
        backbone: Backbone whose tokenizer divides it.

    Raises:
        DataError: It has no tokens.
    """

    def __init__(self, text: str, backbone: Backbone) -> None:
        self.text = text
        self._spans = token_spans(backbone.tokenizer, text)
        if not self._spans:
            raise DataError("A document must have at least one token, but has none; choose another one.")
        ends = [end for _, end in self._spans]
        starts = {bisect_right(ends, match.end()) for match in _BOUNDARY.finditer(text)}
        self._boundaries = sorted({0, *starts, len(ends)})

    @property
    def num_tokens(self) -> int:
        """Number of tokens."""
        return len(self._spans)

    def text_of(self, chunk: Chunk) -> str:
        """The text of a chunk, without whitespace around it."""
        first, end = chunk
        return self.text[self._spans[first][0] : self._spans[end - 1][1]].strip()

    def chunks(self, *, longest: int, shortest: int, seed: int) -> Iterator[Chunk]:
        """Chunks without end; of one seed always the same.

        Their middles follow the golden ratio, which leaves no part of the document out for long. A length is drawn with
        a probability that grows in proportion to it. Both ends move to the beginning of a sentence or line, where one
        is near.

        Args:
            longest: Largest number of tokens of a chunk.
            shortest: Smallest number of tokens that is drawn; the document may be shorter.
            seed: Seed of the lengths, and of the first place.
        """
        drawn = random.Random(f"chunks {seed}")
        longest = min(longest, self.num_tokens)
        shortest = min(shortest, longest)
        place = drawn.random()
        while True:
            place = (place + _GOLDEN) % 1.0
            length = round(math.sqrt(shortest**2 + drawn.random() * (longest**2 - shortest**2)))
            # Middles beyond the first and last ones count for these, so that the ends are read as often as the rest.
            first = round(min(max(place * self.num_tokens - length / 2, 0), self.num_tokens - length))
            yield self._moved(first, length)

    def _moved(self, first: int, length: int) -> Chunk:
        """A chunk of at most this length near a place, from one boundary to another where they are near."""
        if first + length >= self.num_tokens:
            start = self._boundaries[bisect_left(self._boundaries, first)]
            return start if start - first <= length // 4 else first, self.num_tokens
        start = self._boundaries[bisect_right(self._boundaries, first) - 1]
        start = start if first - start <= length // 2 else first
        end = self._boundaries[bisect_right(self._boundaries, start + length) - 1]
        return start, end if end > start and start + length - end <= length // 4 else start + length

    def best_chunk(self, question: str, *, longest: int) -> Chunk:
        """The chunk that has most of a question's words, the rare ones above all; the first one if none has any."""
        step = max(longest // 4, 1)
        last = max(self.num_tokens - longest, 0)
        chunks = [self._moved(first, min(longest, self.num_tokens)) for first in (*range(0, last, step), last)]
        words = [_word_stems(self.text_of(chunk)) for chunk in chunks]
        wanted = _word_stems(question)
        # A word that few chunks have says more about where to look.
        weights = {stem: math.log(1 + len(words) / (1 + sum(stem in one for one in words))) for stem in sorted(wanted)}
        scores = [math.fsum(weight for stem, weight in weights.items() if stem in one) for one in words]
        best = [chunk for chunk, score in zip(chunks, scores, strict=True) if score == max(scores)]
        # Neighbours overlap, and the middle one has what they share in its middle.
        return best[len(best) // 2] if max(scores) > 0 else chunks[0]


def _word_stems(text: str) -> set[str]:
    """The words of a text as their first five letters, so that "trains" and "training" agree."""
    return {word[:5] for word in re.findall(r"\w+", text.casefold()) if len(word) > 2 or word.isdecimal()}
