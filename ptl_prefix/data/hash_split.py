"""Division of one set of sources into splits, by a hash of each source's text.

In: a source. Out: its split. Only the text and the seed decide: no source is in two splits, and adding or removing
other sources moves none.
"""

import hashlib
from dataclasses import dataclass

from ptl_prefix.data.task import Split


@dataclass(frozen=True, kw_only=True)
class Division:
    """Fractions of the distinct sources for each split, met on average; the rest is the training split.

    Args:
        validation: Fraction for validation.
        test: Fraction for the test split.
        seed: Seed of the hash; another one gives another division.
    """

    validation: float
    test: float
    seed: int

    def split_of(self, source: str) -> Split:
        """The split of a source: its text is hashed to a number in [0, 1), which the fractions divide."""
        digest = hashlib.sha256(f"{self.seed}\n{source}".encode()).digest()
        number = int.from_bytes(digest[:8]) / 2**64
        if number < self.validation:
            return "validation"
        return "test" if number < self.validation + self.test else "train"
