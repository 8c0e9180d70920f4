"""A table as grids of text cells, which terminal, Markdown, LaTeX and HTML tables share.

In: a `Table`. Out: grids with the same rows: metrics, differences from the best row, and cost.
"""

from dataclasses import dataclass
from typing import Literal

from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.reporting.comparison_record import AnyRow, AnyTable
from ptl_prefix.reporting.statistics import Standing

LEGEND = (
    "±: 95% confidence interval of the mean over seeds (Student's t). ≈: not significantly different from the best "
    "row; ?: not tested; no mark: significantly worse (paired t-test over seeds, Holm's correction, 5% level)."
)
"""Explains the marks."""

BEST_IS_BOLD = "The best mean of each column is bold; no test compares rows that the bare backbone reaches."

BARE = "bare backbone"
"""The row of the backbone without any method."""

MARKS: dict[Standing, str] = {"best": "", "alike": " ≈", "worse": "", "unknown": " ?"}


@dataclass(frozen=True)
class Cell:
    """A cell of a grid.

    Args:
        text: Text of the cell.
        standing: Comparison with the best row; `None` for cells that are not metrics.
    """

    text: str
    standing: Standing | None = None


@dataclass(frozen=True)
class Column:
    """A column's heading and alignment."""

    heading: str
    align: Literal["left", "right"] = "right"


@dataclass(frozen=True)
class Grid:
    """Columns, and rows with one cell per column."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]


_ROW_COLUMNS = (Column("#"), Column("method", "left"))


def quality_grid(table: AnyTable) -> Grid:
    """Metrics over seeds. The best row is marked, together with rows that are not significantly different from it.

    The last row is the bare backbone, if it was measured; it is the best where no other row is better.
    """
    headings = [f"{name} {arrow(info)}" for name, info in table.metrics.items()]
    rows = [
        (
            *_row_cells(row),
            Cell(str(len(row.seeds))),
            *(_metric(row, name, info) for name, info in table.metrics.items()),
        )
        for row in table.rows
    ]
    if any(name in table.metrics for name in table.bare):
        rows.append((Cell(""), Cell(BARE), Cell(""), *(_bare_metric(table, name) for name in table.metrics)))
    return Grid((*_ROW_COLUMNS, Column("seeds"), *map(Column, headings)), tuple(rows))


def difference_grid(table: AnyTable) -> Grid:
    """The difference of each row from the best row in the main metric, with its interval and p-value."""
    columns = (*_ROW_COLUMNS, *map(Column, (f"difference in {table.main}", "95% interval", "p (Holm)", "test")))
    return Grid(columns, tuple((*_row_cells(row), *_difference(row, table)) for row in table.rows))


def cost_grid(table: AnyTable) -> Grid:
    """Steps, tokens, parameters, bundle size, speed and memory."""
    headings = (
        "steps",
        "tokens",
        "trainable params",
        "stored params",
        "bundle",
        "tokens/s",
        "peak memory",
    )
    return Grid((*_ROW_COLUMNS, *map(Column, headings)), tuple((*_row_cells(row), *_costs(row)) for row in table.rows))


def arrow(info: MetricInfo) -> str:
    """An arrow that points to better values."""
    return "↓" if info.direction == "minimize" else "↑"


def format_metric(value: float, info: MetricInfo) -> str:
    """Format a metric's value with two decimals on scales up to 100, else with four."""
    return f"{value:.2f}" if "100" in info.scale else f"{value:.4f}"


def format_bytes(num_bytes: int) -> str:
    """Format a number of bytes in kB, MB or GB."""
    for factor, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if num_bytes >= factor:
            return f"{num_bytes / factor:,.1f} {unit}"
    return f"{num_bytes} B"


def _row_cells(row: AnyRow) -> tuple[Cell, Cell]:
    return Cell(str(row.number)), Cell(row.label)


def _metric(row: AnyRow, name: str, info: MetricInfo) -> Cell:
    summary = row.summaries.get(name)
    if summary is None:
        return Cell("")
    half = summary.half_width
    spread = "" if half is None else f" ±{format_metric(half, info)}"
    return Cell(f"{format_metric(summary.mean, info)}{spread}", row.verdicts[name].standing)


def _bare_metric(table: AnyTable, name: str) -> Cell:
    value = table.bare.get(name)
    if value is None:
        return Cell("")
    is_best = not any(name in row.verdicts and row.verdicts[name].standing == "best" for row in table.rows)
    return Cell(format_metric(value, table.metrics[name]), "best" if is_best else None)


def _difference(row: AnyRow, table: AnyTable) -> list[Cell]:
    verdict, info = row.verdicts.get(table.main), table.metrics[table.main]
    if verdict is None or row.number == 1 or verdict.difference is None:
        return [
            Cell("best row" if verdict is not None and row.number == 1 else "not tested"),
            *[Cell("")] * 3,
        ]
    low_to_high = (
        "" if verdict.interval is None else " to ".join(f"{format_difference(end, info)}" for end in verdict.interval)
    )
    p = "" if verdict.p is None else "< 0.001" if verdict.p < 0.001 else f"{verdict.p:.3f}"
    return [
        Cell(format_difference(verdict.difference, info)),
        Cell(low_to_high),
        Cell(p),
        Cell("paired t" if verdict.paired else "Welch"),
    ]


def format_difference(value: float, info: MetricInfo) -> str:
    """Format a difference of two values of a metric, with its sign."""
    return ("+" if value > 0 else "−" if value < 0 else "") + format_metric(abs(value), info)


def _costs(row: AnyRow) -> list[Cell]:
    cost = row.cost
    texts = [
        f"{cost.steps:,.0f}",
        f"{cost.tokens:,.0f}",
        f"{cost.num_trainable:,}",
        f"{cost.num_stored:,}",
        "" if cost.bundle_bytes is None else format_bytes(cost.bundle_bytes),
        f"{cost.tokens_per_s:,.0f}",
        "" if cost.peak_memory_bytes is None else format_bytes(cost.peak_memory_bytes),
    ]
    return [Cell(text) for text in texts]
