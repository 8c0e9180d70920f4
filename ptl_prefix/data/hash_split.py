"""One set of sources, divided into splits.

In: a source. Out: the split it belongs to, which its text alone decides: no source is in two splits, and adding or
removing others moves none.
"""

import hashlib
from dataclasses import dataclass

from ptl_prefix.data.task import Split


@dataclass(frozen=True, kw_only=True)
class Division:
    """Shares of the distinct sources, met on average; what is left is to train on.

    Args:
        validation: Share for validation.
        test: Share for the test.
        seed: Another one divides otherwise.
    """

    validation: float
    test: float
    seed: int

    def split_of(self, source: str) -> Split:
        """Where a source belongs: a number in [0, 1) made from its text, laid on the shares."""
        digest = hashlib.sha256(f"{self.seed}\n{source}".encode()).digest()
        number = int.from_bytes(digest[:8]) / 2**64
        if number < self.validation:
            return "validation"
        return "test" if number < self.validation + self.test else "train"
