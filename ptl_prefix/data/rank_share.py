"""The rows and batches of one rank, where several processes work on the same data.

In: the rank and the number of ranks. Out: this rank's part of any rows or batches. Together the parts hold everything
once; the ranks need not communicate.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
T = TypeVar("T")


@dataclass(frozen=True)
class RankShare:
    """One rank of several; by default the only one.

    Args:
        rank: Index of this rank, from 0.
        num_ranks: Number of ranks.
    """

    rank: int = 0
    num_ranks: int = 1

    @property
    def is_rank_zero(self) -> bool:
        """Whether this is rank 0, which alone prints and writes files."""
        return self.rank == 0

    def has(self, number: int) -> bool:
        """Whether the batch with this number belongs to this rank."""
        return number % self.num_ranks == self.rank

    def of_rows(self, rows: Indices) -> Indices:
        """This rank's rows of a batch; none if there are fewer rows than ranks."""
        return rows[self.rank :: self.num_ranks]

    def of_batches(self, batches: Sequence[Indices]) -> list[Indices]:
        """This rank's batches. All ranks have equally many; the last one may be without rows."""
        own = list(batches[self.rank :: self.num_ranks])
        most = -(-len(batches) // self.num_ranks)
        return own + [np.zeros(0, dtype=np.int64)] * (most - len(own))


ALONE = RankShare()
"""The share of a single process: everything."""
