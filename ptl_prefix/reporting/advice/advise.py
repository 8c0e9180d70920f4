"""Advice from comparisons.

In: records of comparisons, a budget and a metric. Out: an `Advice`: for each task and backbone, findings that answer
three questions, and what the comparison cannot tell.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ptl_prefix.errors import ComparisonError
from ptl_prefix.reporting.advice.against_prefix import argue_against_prefix
from ptl_prefix.reporting.advice.budget import Budget
from ptl_prefix.reporting.advice.choice import choose
from ptl_prefix.reporting.advice.finding import Finding
from ptl_prefix.reporting.advice.gains import find_gains
from ptl_prefix.reporting.advice.limits import state_limits
from ptl_prefix.reporting.comparison_record import ComparisonRecord, RowRecord, TableRecord


@dataclass(frozen=True, kw_only=True)
class TableAdvice:
    """The advice for one task and backbone.

    Args:
        table: Table that it stands on.
        metric: Metric that rows are judged by.
        choice: Which row to take within the budget.
        against_prefix: When not to take a prefix.
        gains: What more length, data or a larger backbone gained.
        limits: What the comparison cannot tell.
    """

    table: TableRecord
    metric: str
    choice: tuple[Finding, ...]
    against_prefix: tuple[Finding, ...]
    gains: tuple[Finding, ...]
    limits: tuple[Finding, ...]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All findings."""
        return (*self.choice, *self.against_prefix, *self.gains, *self.limits)

    @property
    def recommended(self) -> RowRecord | None:
        """The row to take; `None` if the comparison supports none."""
        return next((finding.rows[0] for finding in self.choice if finding.kind == "recommended"), None)


@dataclass(frozen=True, kw_only=True)
class Advice:
    """The advice for every table.

    Args:
        budget: What a method may cost.
        tables: Advice by task and backbone.
    """

    budget: Budget
    tables: tuple[TableAdvice, ...]


def advise(records: Sequence[ComparisonRecord], budget: Budget, *, metric: str | None) -> Advice:
    """Advise on every table of some comparisons.

    Args:
        records: Comparisons; at least one.
        budget: What a method may cost.
        metric: Metric that rows are judged by; `None` is the one that each table is sorted by.

    Raises:
        ComparisonError: Two comparisons have a table of one task and backbone, or a table lacks the metric.
    """
    tables = [table for record in records for table in record.tables]
    if problems := [*_repeated(tables), *_lacking(tables, metric)]:
        raise ComparisonError("\n".join(problems))
    return Advice(budget=budget, tables=tuple(_advise(table, tables, budget, metric or table.main) for table in tables))


def _advise(table: TableRecord, tables: Sequence[TableRecord], budget: Budget, metric: str) -> TableAdvice:
    return TableAdvice(
        table=table,
        metric=metric,
        choice=tuple(choose(table, budget, metric)),
        against_prefix=tuple(argue_against_prefix(table, budget, metric)),
        gains=tuple(find_gains(table, tables, metric)),
        limits=tuple(state_limits(table, metric)),
    )


def _repeated(tables: Sequence[TableRecord]) -> list[str]:
    names = [(table.task, table.backbone) for table in tables]
    return [
        f"Each task and backbone must have one table, but {names.count(name)} comparisons have {name[0]} on {name[1]}; "
        "compare their runs together: ptl-prefix compare RUN…"
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]


def _lacking(tables: Sequence[TableRecord], metric: str | None) -> list[str]:
    return [
        f"`metric` must be a metric of {table.task} on {table.backbone} ({', '.join(table.metrics)}), but is {metric}."
        for table in tables
        if metric is not None and metric not in table.metrics
    ]
