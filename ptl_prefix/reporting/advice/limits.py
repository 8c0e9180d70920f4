"""What a comparison cannot tell.

In: a table. Out: findings about its seeds, its one task, its learning rates and its bare backbone.
"""

from collections import defaultdict
from collections.abc import Iterator

from ptl_prefix.reporting.advice.finding import Finding, listed, named
from ptl_prefix.reporting.advice.paired_tests import MIN_SEEDS
from ptl_prefix.reporting.comparison_record import TableRecord

_RATE = "optimizer.lr"


def state_limits(table: TableRecord, metric: str) -> list[Finding]:
    """State what the table cannot tell."""
    return [*_seeds(table), *_rates(table), *_inputs(table, metric)]


def _seeds(table: TableRecord) -> Iterator[Finding]:
    few = tuple(row for row in table.rows if len(row.runs) < MIN_SEEDS)
    if few:
        names = listed([named(row) for row in few])
        text = f"Rows of fewer than {MIN_SEEDS} seeds support no claim: {names}."
        yield Finding(kind="untested", text=text, rows=few)
    most = max(len(row.runs) for row in table.rows)
    text = (
        f"Intervals are over at most {most} seeds: the start, the order of the examples and dropout. They do not speak "
        f"of tasks other than {table.task}, of other backbones, or of other test inputs."
    )
    yield Finding(kind="fact", text=text)


def _rates(table: TableRecord) -> Iterator[Finding]:
    rates: defaultdict[str, set[str]] = defaultdict(set)
    for row in table.rows:
        rates[row.method].add(repr(row.config.get(_RATE)))
    single = sorted(method for method, found in rates.items() if len(found) == 1)
    if single:
        rows = tuple(row for row in table.rows if row.method in single)
        text = (
            f"One learning rate was tried of {listed(single)} (rows {listed([f'#{row.number}' for row in rows])}), so "
            "the table ranks settings: another rate may reverse it."
        )
        yield Finding(kind="fact", text=text, rows=rows)
    if len(single) < len(rates):
        text = "Where several rates were tried, the best was chosen by the numbers that are shown: it is optimistic."
        yield Finding(kind="fact", text=text)


def _inputs(table: TableRecord, metric: str) -> Iterator[Finding]:
    if metric not in table.bare:
        text = f"The bare backbone's {metric} was not measured, so it is not known whether any row improves on it."
        yield Finding(kind="fact", text=text)
    for caveat in table.caveats:
        yield Finding(kind="fact", text=caveat)
