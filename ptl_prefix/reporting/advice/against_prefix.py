"""The second question: when not to take a prefix.

In: a table and a budget. Out: findings. Each affordable row with a prefix is tested against the best affordable row
without one: in the metric, in retention where both measured it, and in training speed where both ran on one machine.
"""

from collections.abc import Iterator, Sequence

from ptl_prefix.reporting.advice.budget import Budget
from ptl_prefix.reporting.advice.choice import affordable_rows
from ptl_prefix.reporting.advice.finding import Finding, Kind, named
from ptl_prefix.reporting.advice.paired_tests import PairedTest, correct, paired_test, speed_test
from ptl_prefix.reporting.comparison_record import RowRecord, TableRecord

_RETENTION = "retention/"
"""Start of the names of metrics of what the adapted backbone keeps of its other abilities."""


def has_prefix(row: RowRecord) -> bool:
    """Whether a row's method puts a prefix before attention: then it has a prefix length, or parts that have one."""
    return any(key.startswith("method.") and key.endswith("prefix_length") for key in row.config)


def argue_against_prefix(table: TableRecord, budget: Budget, metric: str) -> list[Finding]:
    """Say where a row without a prefix is the better one, and where there is no evidence of that."""
    rows = affordable_rows(table, budget, metric)
    prefixes = [row for row in rows if has_prefix(row)]
    others = [row for row in rows if not has_prefix(row)]
    if not prefixes or not others:
        lacking = "with" if not prefixes else "without"
        text = f"No row {lacking} a prefix is within the budget, so prefixes are not compared with other methods."
        return [Finding(kind="fact", text=text)]
    best = others[0]
    names = [metric, *(name for name in table.metrics if name.startswith(_RETENTION) and name != metric)]
    tests = correct([test for row in prefixes for test in _tests(row, best, names, table)])
    tested = [test for test in tests if test.p is not None]
    return [
        *(_of_metric(test) for test in tested if test.metric == metric),
        *_further([test for test in tested if test.metric != metric]),
        *_untested(best, [test for test in tests if test.p is None]),
    ]


def _tests(row: RowRecord, best: RowRecord, names: Sequence[str], table: TableRecord) -> Iterator[PairedTest]:
    for name in names:
        if name in row.summaries and name in best.summaries:
            yield paired_test(row, best, name, table.metrics[name])
    if (machine := _machine(row)) is not None and machine == _machine(best):
        yield speed_test(row, best)


def _machine(row: RowRecord) -> str | None:
    """The machine of all runs of a row; `None` if they ran on several, or it is unknown."""
    keys = ("cpu", "cores", "devices")
    found = {repr([run.environment.get(key) for key in keys]) for run in row.runs}
    is_known = all(run.environment.get("cpu") or run.environment.get("devices") for run in row.runs)
    return found.pop() if len(found) == 1 and is_known else None


def _of_metric(test: PairedTest) -> Finding:
    row, best = _pair(test)
    size = f"It stores {row.cost.num_stored:,} parameters, #{best.number} {best.cost.num_stored:,}."
    other = f"{named(best)}, the best row without a prefix"
    law = {
        "worse": f"Do not take {named(row)} for its {test.metric}: it is worse than {other}",
        "better": f"{named(row)} is better in {test.metric} than {other}",
        "open": f"No evidence of a difference in {test.metric} between {named(row)} and {other}",
    }
    kind: Kind = "no_evidence" if test.outcome == "open" else "difference"
    return Finding(kind=kind, text=f"{law[test.outcome]} ({test.numbers}). {size}", rows=(row, best), tests=(test,))


def _further(tests: Sequence[PairedTest]) -> Iterator[Finding]:
    """Retention and speed: a sentence for each difference, and one for all rows that a metric does not tell apart."""
    for test in tests:
        if test.outcome != "open":
            row, best = _pair(test)
            text = f"{named(row)} is {test.outcome} in {test.metric} than {named(best)} ({test.numbers})."
            yield Finding(kind="difference", text=text, rows=(row, best), tests=(test,))
    silent = [test for test in tests if test.outcome == "open"]
    for metric in dict.fromkeys(test.metric for test in silent):
        found = tuple(test for test in silent if test.metric == metric)
        _, best = _pair(found[0])
        pairs = "; ".join(f"#{test.row.number} ({test.numbers})" for test in found)
        text = f"No evidence of a difference in {metric} from {named(best)}: {pairs}."
        yield Finding(kind="no_evidence", text=text, rows=(best, *(test.row for test in found)), tests=found)


def _untested(best: RowRecord, tests: Sequence[PairedTest]) -> Iterator[Finding]:
    if tests:
        pairs = "; ".join(f"#{test.row.number} in {test.metric} ({test.numbers})" for test in tests)
        text = f"Not tested against {named(best)}, the best row without a prefix: {pairs}."
        rows = tuple({test.row.number: test.row for test in tests}.values())
        yield Finding(kind="untested", text=text, rows=(best, *rows), tests=tuple(tests))


def _pair(test: PairedTest) -> tuple[RowRecord, RowRecord]:
    assert test.other is not None  # only a test of the bare backbone has no other row
    return test.row, test.other
