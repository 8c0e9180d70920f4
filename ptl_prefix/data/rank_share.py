"""Which part of the batches a process takes, where several work on the same data.

In: its rank, and how many there are. Out: a choice among batches or rows that leaves nothing out and takes nothing
twice, without a word between the processes.
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
    """One of several processes; by default the only one.

    Args:
        rank: Which one, counted from 0.
        num_ranks: How many there are.
    """

    rank: int = 0
    num_ranks: int = 1

    @property
    def is_rank_zero(self) -> bool:
        """Whether this is the one that speaks and writes for all."""
        return self.rank == 0

    def has(self, number: int) -> bool:
        """Whether the work of that number is this process's."""
        return number % self.num_ranks == self.rank

    def of_rows(self, rows: Indices) -> Indices:
        """This process's rows of a batch; none, if there are fewer rows than processes."""
        return rows[self.rank :: self.num_ranks]

    def of_batches(self, batches: Sequence[Indices]) -> list[Indices]:
        """This process's batches. All processes have equally many, if need be one without rows."""
        taken = list(batches[self.rank :: self.num_ranks])
        most = -(-len(batches) // self.num_ranks)
        return taken + [np.zeros(0, dtype=np.int64)] * (most - len(taken))


ALONE = RankShare()
"""Where there is one process."""
