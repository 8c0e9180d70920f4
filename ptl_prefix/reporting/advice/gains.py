"""The third question: what more length, more data or a larger backbone would gain.

In: the tables of a comparison. Out: findings. Only rows that differ in exactly that one setting are compared:
neighbours in its values, and the two ends. Nothing is said of values that no row has.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ptl_prefix.reporting.advice.finding import Finding
from ptl_prefix.reporting.advice.paired_tests import PairedTest, correct, paired_test
from ptl_prefix.reporting.comparison_record import RowRecord, TableRecord
from ptl_prefix.reporting.differing_settings import format_setting

_LENGTHS = ("method.prefix_length", "method.prompt_length")
_EXAMPLES = "task.num_train_examples"
_BACKBONE = "backbone."


@dataclass(frozen=True, kw_only=True)
class _Step:
    """Two rows that differ in one setting, with that setting's values as text."""

    smaller: RowRecord
    larger: RowRecord
    what: str
    values: tuple[str, str]
    places: tuple[str, str] = ("", "")


def find_gains(table: TableRecord, tables: Sequence[TableRecord], metric: str) -> list[Finding]:
    """Say what more length, more data and a larger backbone gained.

    Args:
        table: Table that the advice is about; its backbone is the smaller one.
        tables: All tables, for larger backbones.
        metric: Metric of the differences.
    """
    lengths = [step for key in _LENGTHS for step in _steps(table, key)]
    data = list(_steps(table, _EXAMPLES))
    larger, reasons = _larger_backbones(table, tables, metric)
    steps = [step for step in (*lengths, *data, *larger) if _have(step, metric)]
    info = table.metrics[metric]
    tests = correct([paired_test(step.larger, step.smaller, metric, info) for step in steps])
    found = [_finding(step, test, metric) for step, test in zip(steps, tests, strict=True)]
    return [*found, *_silences(lengths, data, larger, reasons)]


def _have(step: _Step, metric: str) -> bool:
    return metric in step.smaller.summaries and metric in step.larger.summaries


def _steps(table: TableRecord, key: str) -> Iterator[_Step]:
    """Pairs of rows that differ in the setting `key` alone."""
    groups: defaultdict[str, list[RowRecord]] = defaultdict(list)
    for row in table.rows:
        if key in row.config:
            rest = sorted((name, value) for name, value in row.config.items() if name != key)
            groups[repr((row.method, rest, row.settings.get("phase")))].append(row)
    for rows in groups.values():
        ordered = sorted(rows, key=lambda row: _amount(row, key))
        for smaller, larger in _neighbours_and_ends(ordered):
            if _amount(smaller, key) < _amount(larger, key):
                values = (_value(smaller, key), _value(larger, key))
                yield _Step(smaller=smaller, larger=larger, what=f"`{key.removeprefix('method.')}`", values=values)


def _neighbours_and_ends(rows: Sequence[RowRecord]) -> Iterator[tuple[RowRecord, RowRecord]]:
    yield from itertools.pairwise(rows)
    if len(rows) > 2:
        yield rows[0], rows[-1]


def _amount(row: RowRecord, key: str) -> float:
    """The value of a setting as a number: `null` examples are all of them; what is no number is no larger either."""
    value = row.config[key]
    if key == _EXAMPLES and value is None:
        return float("inf")
    return float(value) if isinstance(value, int | float) else -1.0


def _value(row: RowRecord, key: str) -> str:
    value = row.config[key]
    return "all" if key == _EXAMPLES and value is None else format_setting(value)


def _larger_backbones(table: TableRecord, tables: Sequence[TableRecord], metric: str) -> tuple[list[_Step], list[str]]:
    """Pairs of rows that differ in the backbone alone, and why tables of larger backbones are not compared."""
    steps, reasons = [], []
    for other in tables:
        if other.task != table.task or other.backbone_parameters <= table.backbone_parameters:
            continue
        if reason := _why_incomparable(table, other, metric):
            reasons.append(f"{other.backbone} is not compared: {reason}")
            continue
        steps += [
            _Step(
                smaller=row,
                larger=larger,
                what=f"the backbone, {row.method},",
                values=(_size(table), _size(other)),
                places=("", f" in the table of {other.backbone}"),
            )
            for row in table.rows
            for larger in other.rows
            if _without_backbone(row) == _without_backbone(larger)
        ]
    return steps, reasons


def _why_incomparable(table: TableRecord, other: TableRecord, metric: str) -> str:
    mine, theirs = table.metrics[metric], other.metrics.get(metric)
    if theirs is None or (mine.scale, mine.direction, mine.version) != (theirs.scale, theirs.direction, theirs.version):
        return f"its {metric} is missing or defined otherwise."
    if table.task_version != other.task_version:
        return "its task has another version."
    if (table.decoding, table.inputs) != (other.decoding, other.inputs) or table.inputs is None:
        return "its decoding or its test inputs differ."
    if "token" in mine.scale and (table.tokenizer is None or table.tokenizer != other.tokenizer):
        return f"{metric} is per token, and the tokenizers differ."
    return ""


def _without_backbone(row: RowRecord) -> str:
    rest = sorted((key, value) for key, value in row.config.items() if not key.startswith(_BACKBONE))
    return repr((row.method, rest, row.settings.get("phase")))


def _size(table: TableRecord) -> str:
    return f"{table.backbone} ({table.backbone_parameters:,} parameters)"


def _finding(step: _Step, test: PairedTest, metric: str) -> Finding:
    names = [f"#{row.number}{place}" for row, place in zip((step.smaller, step.larger), step.places, strict=True)]
    change = f"{step.what} from {step.values[0]} ({names[0]}) to {step.values[1]} ({names[1]})"
    change = change[0].upper() + change[1:]
    rows = (step.smaller, step.larger)
    stored = f"stored parameters {step.smaller.cost.num_stored:,} to {step.larger.cost.num_stored:,}"
    if test.outcome in ("better", "worse"):
        text = f"{change}: {metric} is {test.outcome} ({test.numbers}); {stored}."
        return Finding(kind="difference", text=text, rows=rows, tests=(test,))
    if test.outcome == "untested":
        return Finding(kind="untested", text=f"{change}: not tested ({test.numbers}).", rows=rows, tests=(test,))
    text = f"{change}: no evidence of a difference in {metric} ({test.numbers}); {stored}."
    return Finding(kind="no_evidence", text=text, rows=rows, tests=(test,))


def _silences(
    lengths: Sequence[_Step], data: Sequence[_Step], larger: Sequence[_Step], reasons: Sequence[str]
) -> Iterator[Finding]:
    """What the comparison cannot say, because no two rows differ in that setting alone."""
    for steps, what in (
        (lengths, "the prefix's or prompt's length"),
        (data, "the number of training examples"),
        (larger, "a larger backbone"),
    ):
        if not steps:
            yield Finding(kind="fact", text=f"Nothing is known of {what}: no two rows differ in that alone.")
    for reason in reasons:
        yield Finding(kind="fact", text=f"{reason[0].upper()}{reason[1:]}")
