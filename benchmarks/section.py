"""What the page says of a benchmark, and the pieces of it that many benchmarks share.

In: numbers of a report. Out: a `Section`, whose numbers are text.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.goals import Goal, Rows
from benchmarks.plots import Bars, Curves

Report = Mapping[str, Any]
"""The JSON report that a benchmark wrote."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A report as the page shows it.

    Args:
        table: Headings and rows.
        plot: Plot; `None` for none.
        goals: Numbers beside their bounds.
        remarks: Sentences under the table.
    """

    table: Rows
    plot: Bars | Curves | None = None
    goals: Sequence[Goal] = ()
    remarks: Sequence[str] = ()


def table_of(headings: str, rows: Iterable[Sequence[str]]) -> Rows:
    """A table whose headings are separated by `|`."""
    return [headings.split("|"), *(list(row) for row in rows)]


def shown_ratio(value: Mapping[str, float] | None) -> str:
    """A ratio's median with its quartiles; nothing for none."""
    return "" if value is None else f"{value['median']:.2f} ({value['low']:.2f}-{value['high']:.2f})"


def shown_median(values: Sequence[float]) -> str:
    """The median of some numbers."""
    return f"{statistics.median(values):.2f}"


def shown_ms(seconds: float | None) -> str:
    """Seconds as milliseconds; nothing for none."""
    return "" if seconds is None else f"{seconds * 1e3:.1f}"
