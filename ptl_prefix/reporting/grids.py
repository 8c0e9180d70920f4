"""A table as cells of text, before anybody decides how they look.

In: a `Table`. Out: two grids with the same rows: how good the rows are, and what they take.
"""

from dataclasses import dataclass
from typing import Literal

from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.reporting.statistics import Standing
from ptl_prefix.reporting.table import Row, Table

LEGEND = (
    "±: 95% interval of the mean over seeds (Student's t). ≈: cannot be told from the best, worse rows can "
    "(paired t over seeds, corrected by Holm, 5%). ?: not tested."
)
"""What the marks mean."""

MARKS: dict[Standing, str] = {"best": "", "alike": " ≈", "worse": "", "unknown": " ?"}


@dataclass(frozen=True)
class Cell:
    """One entry.

    Args:
        text: As it is read.
        standing: Of a metric, beside the other rows.
    """

    text: str
    standing: Standing | None = None


@dataclass(frozen=True)
class Column:
    """What a column holds, and how it is aligned."""

    heading: str
    align: Literal["left", "right"] = "right"


@dataclass(frozen=True)
class Grid:
    """Columns, and rows of as many cells."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]


_NAMES = (Column("#"), Column("method", "left"))


def quality_grid(table: Table) -> Grid:
    """Each metric over seeds, the best and those not distinguishable from it marked."""
    headings = [f"{name} {arrow(info)}" for name, info in table.metrics.items()]
    rows = [
        (
            *_names(row),
            Cell(str(len(row.runs))),
            *(_metric(row, name, info) for name, info in table.metrics.items()),
        )
        for row in table.rows
    ]
    return Grid((*_NAMES, Column("seeds"), *map(Column, headings)), tuple(rows))


def difference_grid(table: Table) -> Grid:
    """The main metric of each row less that of the best, with how sure that is."""
    columns = (*_NAMES, *map(Column, (f"{table.main}, less the best", "95% interval", "p (Holm)", "test")))
    return Grid(columns, tuple((*_names(row), *_difference(row, table)) for row in table.rows))


def cost_grid(table: Table) -> Grid:
    """Budget, parameters, bytes, speed and memory."""
    headings = ("steps", "tokens", "trained", "stored", "bundle", "tokens/s", "peak memory")
    return Grid((*_NAMES, *map(Column, headings)), tuple((*_names(row), *_costs(row)) for row in table.rows))


def arrow(info: MetricInfo) -> str:
    """Which way is better."""
    return "↓" if info.direction == "minimize" else "↑"


def number(value: float, info: MetricInfo) -> str:
    """A metric's value, as exact as its scale deserves."""
    return f"{value:.2f}" if "100" in info.scale else f"{value:.4f}"


def byte_count(number: int) -> str:
    """Bytes in the unit that people count them in."""
    for factor, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if number >= factor:
            return f"{number / factor:,.1f} {unit}"
    return f"{number} B"


def _names(row: Row) -> tuple[Cell, Cell]:
    return Cell(str(row.number)), Cell(row.label)


def _metric(row: Row, name: str, info: MetricInfo) -> Cell:
    summary = row.summaries.get(name)
    if summary is None:
        return Cell("")
    half = summary.half_width
    spread = "" if half is None else f" ±{number(half, info)}"
    return Cell(f"{number(summary.mean, info)}{spread}", row.verdicts[name].standing)


def _difference(row: Row, table: Table) -> list[Cell]:
    verdict, info = row.verdicts.get(table.main), table.metrics[table.main]
    if verdict is None or verdict.standing == "best" or verdict.difference is None:
        return [
            Cell("the best" if verdict is not None and verdict.standing == "best" else "not tested"),
            *[Cell("")] * 3,
        ]
    low_to_high = "" if verdict.interval is None else " to ".join(f"{_signed(end, info)}" for end in verdict.interval)
    p = "" if verdict.p is None else "< 0.001" if verdict.p < 0.001 else f"{verdict.p:.3f}"
    return [
        Cell(_signed(verdict.difference, info)),
        Cell(low_to_high),
        Cell(p),
        Cell("paired t" if verdict.paired else "Welch"),
    ]


def _signed(value: float, info: MetricInfo) -> str:
    return ("+" if value > 0 else "−" if value < 0 else "") + number(abs(value), info)


def _costs(row: Row) -> list[Cell]:
    cost = row.cost
    texts = [
        f"{cost.steps:,.0f}",
        f"{cost.tokens:,.0f}",
        f"{cost.trained:,}",
        f"{cost.stored:,}",
        "" if cost.bundle_bytes is None else byte_count(cost.bundle_bytes),
        f"{cost.tokens_per_s:,.0f}",
        "" if cost.peak_memory_bytes is None else byte_count(cost.peak_memory_bytes),
    ]
    return [Cell(text) for text in texts]
