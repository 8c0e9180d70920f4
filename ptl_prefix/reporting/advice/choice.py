"""The first question: which row to take within the budget.

In: a table and a budget. Out: findings. Each affordable row is tested against the best of them, and the best against
the bare backbone; nothing is recommended that is not significantly better than the bare backbone.
"""

from collections.abc import Iterator, Sequence

from ptl_prefix.reporting.advice.budget import Budget
from ptl_prefix.reporting.advice.finding import Finding, Kind, listed, named
from ptl_prefix.reporting.advice.paired_tests import (
    MIN_SEEDS,
    Outcome,
    PairedTest,
    bare_test,
    correct,
    mean_of,
    paired_test,
)
from ptl_prefix.reporting.comparison_record import RowRecord, TableRecord
from ptl_prefix.reporting.grids import format_metric


def affordable_rows(table: TableRecord, budget: Budget, metric: str) -> list[RowRecord]:
    """The rows within the budget that have the metric, best mean first.

    Rows that a search selected by the metric are left out where their confirmation is in the table.
    """
    direction = table.metrics[metric].direction
    fitting = [row for row in table.rows if metric in row.summaries and budget.fits(row) and not _is_selected(row)]
    return sorted(fitting, key=lambda row: mean_of(row, metric, direction))


def _is_selected(row: RowRecord) -> bool:
    return row.settings.get("phase") == "search"


def choose(table: TableRecord, budget: Budget, metric: str) -> list[Finding]:
    """Say which row to take, and what is not significantly different from it."""
    outside = list(_outside(table, budget))
    rows = affordable_rows(table, budget, metric)
    if not rows:
        return [Finding(kind="fact", text=f"No row within the budget has {metric}: nothing is recommended."), *outside]
    info, best = table.metrics[metric], rows[0]
    bare = table.bare.get(metric)
    of_bare = [] if bare is None else [bare_test(best, bare, metric, info)]
    tests = correct([*of_bare, *(paired_test(row, best, metric, info) for row in rows[1:])])
    verdict = _verdict(best, table, metric, tests[: len(of_bare)], num_rows=len(rows))
    others = tests[len(of_bare) :]
    return [verdict, *_others(best, others), *_cheapest(best, others), *outside]


def _verdict(best: RowRecord, table: TableRecord, metric: str, of_bare: Sequence[PairedTest], num_rows: int) -> Finding:
    summary, info = best.summaries[metric], table.metrics[metric]
    spread = "" if summary.half_width is None else f" ±{format_metric(summary.half_width, info)}"
    mean = f"{format_metric(summary.mean, info)}{spread}"
    seeds = "one seed" if summary.count == 1 else f"{summary.count} seeds"
    rank = "is the only row" if num_rows == 1 else f"has the best mean of the {num_rows} rows"
    facts = f"{named(best)} {rank} within the budget, {metric} {mean} over {seeds}"
    if summary.count < MIN_SEEDS:
        text = f"Nothing is recommended: {facts}, and a recommendation needs {MIN_SEEDS}."
        return Finding(kind="untested", text=text, rows=(best,))
    if not of_bare:
        text = f"Recommended among these rows: {facts}. The bare backbone was not measured."
        return Finding(kind="recommended", text=text, rows=(best,))
    (test,) = of_bare
    bare = f"the bare backbone's {format_metric(table.bare[metric], info)} ({test.numbers})"
    if test.outcome == "better":
        text = f"Recommended: {facts}; it is better than {bare}."
        return Finding(kind="recommended", text=text, rows=(best,), tests=(test,))
    kind, fact = _NOT_BETTER[test.outcome]
    text = f"Nothing is recommended: {facts}, but it is {fact} {bare}."
    return Finding(kind=kind, text=text, rows=(best,), tests=(test,))


_NOT_BETTER: dict[Outcome, tuple[Kind, str]] = {
    "worse": ("difference", "significantly worse than"),
    "open": ("no_evidence", "not significantly better than"),
    "untested": ("untested", "not tested against"),
}

_GROUPS: tuple[tuple[Outcome, Kind, str], ...] = (
    ("worse", "difference", "Significantly worse than #{best}: {rows}."),
    ("open", "no_evidence", "Not significantly different from #{best}, which does not mean equal: {rows}."),
    ("better", "difference", "Better than #{best} over the seeds that both have, though not over all seeds: {rows}."),
    ("untested", "untested", "Not tested against #{best}: {rows}."),
)


def _others(best: RowRecord, tests: Sequence[PairedTest]) -> Iterator[Finding]:
    for outcome, kind, sentence in _GROUPS:
        found = tuple(test for test in tests if test.outcome == outcome)
        if found:
            rows = listed([f"{named(test.row)} ({test.numbers})" for test in found])
            text = sentence.format(best=best.number, rows=rows)
            cited = (best, *(test.row for test in found))
            yield Finding(kind=kind, text=text, rows=cited, tests=found)


def _cheapest(best: RowRecord, tests: Sequence[PairedTest]) -> Iterator[Finding]:
    alike = [test for test in tests if test.outcome == "open"]
    if not alike:
        return
    rows = [best, *(test.row for test in alike)]
    cheapest = min(rows, key=_size)
    count = f"Of {listed([f'#{row.number}' for row in rows])}, #{cheapest.number} is the cheapest"
    if cheapest is best:
        text = f"{count}: it stores {best.cost.num_stored:,} parameters."
        yield Finding(kind="fact", text=text, rows=tuple(rows))
        return
    test = next(test for test in alike if test.row is cheapest)
    allowed = "" if not test.worst_case else f" The interval allows it to be worse by {_plain(test)}."
    text = (
        f"{count}: it stores {cheapest.cost.num_stored:,} parameters, #{best.number} {best.cost.num_stored:,}.{allowed}"
    )
    yield Finding(kind="fact", text=text, rows=tuple(rows), tests=(test,))


def _plain(test: PairedTest) -> str:
    return format_metric(test.worst_case or 0.0, test.info)


def _size(row: RowRecord) -> tuple[int, int, float]:
    return row.cost.num_stored, row.cost.num_trainable, row.cost.tokens


def _outside(table: TableRecord, budget: Budget) -> Iterator[Finding]:
    found = {row.number: excesses for row in table.rows if (excesses := budget.excesses(row))}
    if found:
        rows = tuple(row for row in table.rows if row.number in found)
        facts = "; ".join(f"{named(row)} {listed(found[row.number])}" for row in rows)
        yield Finding(kind="fact", text=f"Outside the budget: {facts}.", rows=rows)
    if searched := tuple(row for row in table.rows if _is_selected(row)):
        names = listed([named(row) for row in searched])
        text = f"Not considered, as a search selected among them by the metric, which makes it optimistic: {names}."
        yield Finding(kind="fact", text=text, rows=searched)
