"""Goals: a measured number beside the bound that it was to keep.

In: a benchmark's report. Out: `Goal`s, and rows of a table.
"""

from collections.abc import Sequence
from dataclasses import dataclass

Rows = list[list[str]]
"""The headings, then a row for each line of the table; numbers are text."""


@dataclass(frozen=True)
class Goal:
    """A number and its bound.

    Args:
        what: What the number is.
        measured: The number.
        bound: Largest number that is wanted, or the least.
        unit: Unit of both; empty for a ratio.
        at_least: Whether the bound is the least number that is wanted.
    """

    what: str
    measured: float
    bound: float
    unit: str = ""
    at_least: bool = False

    @property
    def is_met(self) -> bool:
        """Whether the bound is kept."""
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound

    @property
    def row(self) -> list[str]:
        """What, the number, the bound, and whether it is kept."""
        unit = f" {self.unit}" if self.unit else ""
        bound = f"{'>=' if self.at_least else '<='} {self.bound:.4g}{unit}"
        return [self.what, f"{self.measured:.3f}{unit}", bound, "yes" if self.is_met else "no"]


def goal_rows(goals: Sequence[Goal]) -> Rows:
    """A table of goals."""
    return [["goal", "measured", "wanted", "met"], *(goal.row for goal in goals)]
