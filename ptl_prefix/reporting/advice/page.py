"""Advice as a page of Markdown.

In: an `Advice`. Out: Markdown: for each task and backbone the rows, and what follows from them and what does not.
"""

import re
from collections.abc import Iterator
from dataclasses import fields

from ptl_prefix.artifacts.visible_text import escape_controls
from ptl_prefix.reporting.advice.advise import Advice, TableAdvice
from ptl_prefix.reporting.advice.budget import Budget
from ptl_prefix.reporting.advice.finding import Finding
from ptl_prefix.reporting.advice.paired_tests import MIN_SEEDS
from ptl_prefix.reporting.comparison_record import RowRecord
from ptl_prefix.reporting.grids import Cell, Column, Grid, arrow, format_bytes, format_metric
from ptl_prefix.reporting.text_tables import markdown_grid

_METHOD = (
    f"Differences are first row minus second, over the seeds that both have (at least {MIN_SEEDS}; paired t-test). "
    "Intervals are of 95%. Each section is one question: p is corrected by Holm's method over its tests. A difference "
    "is claimed if p is below 0.05 and the interval excludes 0."
)


def render_advice(advice: Advice) -> str:
    """Render advice as Markdown."""
    parts = [part for one in advice.tables for part in _parts(one, advice.budget)]
    return "\n\n".join(parts) + "\n"


def _parts(advice: TableAdvice, budget: Budget) -> tuple[str, str, str]:
    return render_title(advice, budget), markdown_grid(rows_grid(advice, budget)), render_findings(advice)


def render_title(advice: TableAdvice, budget: Budget) -> str:
    """The heading of one table's advice, its metric and the budget, as Markdown."""
    title = _text(f"{advice.table.task} on {advice.table.backbone}")
    return f"# {title}\n\n{_text(f'Judged by {advice.metric}. {_budget(budget)}')}"


def render_findings(advice: TableAdvice) -> str:
    """What follows from one table, and what does not, as Markdown."""
    return "\n\n".join([_METHOD, *_sections(advice)])


def _sections(advice: TableAdvice) -> Iterator[str]:
    for heading, findings in (
        ("Which method", advice.choice),
        ("When not to take a prefix", advice.against_prefix),
        ("What more would gain", advice.gains),
        ("What this comparison cannot tell", advice.limits),
    ):
        yield f"## {heading}"
        yield "\n".join(_bullet(finding) for finding in findings)


def _bullet(finding: Finding) -> str:
    text = _text(finding.text)
    return f"- **{text}**" if finding.kind == "recommended" else f"- {text}"


def _budget(budget: Budget) -> str:
    limits = [(limit.name, getattr(budget, limit.name)) for limit in fields(budget)]
    stated = ", ".join(f"{name}={value:,}" for name, value in limits if value is not None)
    return f"Budget: {stated}." if stated else "No budget was given: every row may be taken."


def rows_grid(advice: TableAdvice, budget: Budget) -> Grid:
    """The rows that the sentences cite, with the budget's costs."""
    info = advice.table.metrics[advice.metric]
    headings = (f"{advice.metric} {arrow(info)}", "seeds", "stored params", "trainable params", "bundle", "steps")
    columns = (Column("#"), Column("method", "left"), *map(Column, (*headings, "tokens/s", "in budget")))
    return Grid(columns, tuple(_row(row, advice, budget) for row in advice.table.rows))


def _row(row: RowRecord, advice: TableAdvice, budget: Budget) -> tuple[Cell, ...]:
    info, summary, cost = advice.table.metrics[advice.metric], row.summaries.get(advice.metric), row.cost
    half = None if summary is None else summary.half_width
    spread = "" if half is None else f" ±{format_metric(half, info)}"
    texts = (
        str(row.number),
        row.label,
        "" if summary is None else f"{format_metric(summary.mean, info)}{spread}",
        str(len(row.seeds)),
        f"{cost.num_stored:,}",
        f"{cost.num_trainable:,}",
        "" if cost.bundle_bytes is None else format_bytes(cost.bundle_bytes),
        f"{cost.steps:,.0f}",
        f"{cost.tokens_per_s:,.0f}",
        "yes" if budget.fits(row) else "no",
    )
    return tuple(map(Cell, texts))


def _text(text: str) -> str:
    """Escape text, so that Markdown shows it verbatim; what stands between backticks is code."""
    parts = re.split(r"(`[^`]*`)", " ".join(escape_controls(text).split()))
    return "".join(part if index % 2 else _MARKUP.sub(r"\\\1", part) for index, part in enumerate(parts))


_MARKUP = re.compile(r"([\\`*_|<>\[\]])")
"""Characters that Markdown would not show as they are; `#` stands at no line's start."""
