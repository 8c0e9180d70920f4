"""The tables of a document's report: values under each condition, differences, memory and times, the gate.

In: a `DocumentReport`. Out: grids, which a terminal or a page shows.
"""

from collections.abc import Callable

from ptl_prefix.artifacts.document_report import (
    WHOLE_DOCUMENT,
    ConditionReport,
    DocumentReport,
    Measured,
    RefusedTexts,
    RelevanceGate,
)
from ptl_prefix.reporting.grids import Cell, Column, Grid, arrow

_CONDITION = Column("condition", "left")


def gate_grid(gate: RelevanceGate) -> Grid:
    """What a relevance gate refuses."""
    rows = {"questions about the document ↓": gate.own, "foreign questions ↑": gate.foreign}
    columns = (Column("texts", "left"), Column("refused"), Column("of"), Column("share"))
    return Grid(columns, tuple(_refused(name, texts) for name, texts in rows.items()))


def _refused(name: str, texts: RefusedTexts) -> tuple[Cell, ...]:
    shown = (name, f"{texts.refused:,}", f"{texts.of:,}", f"{texts.refused / texts.of:.0%}")
    return tuple(map(Cell, shown))


def values_grid(report: DocumentReport) -> Grid:
    """The values of each condition, with intervals."""
    measured = [_row(one, report, lambda one, name: _interval(one.values.get(name))) for one in report.results]
    return Grid(_headings(report), tuple(measured))


def differences_grid(report: DocumentReport) -> Grid:
    """Their differences to one condition, with intervals."""
    others = (one for one in report.results if one.name != report.compared_to)
    differences = [_row(one, report, lambda one, name: _interval(one.differences.get(name), "+")) for one in others]
    return Grid(_headings(report), tuple(differences))


def _headings(report: DocumentReport) -> tuple[Column, ...]:
    return (_CONDITION, *(Column(f"{name} {arrow(info)}") for name, info in report.metric_info.items()))


def _row(one: ConditionReport, report: DocumentReport, cell: Callable[[ConditionReport, str], str]) -> tuple[Cell, ...]:
    return (Cell(one.name), *(Cell(cell(one, name)) for name in report.metric_info))


def _interval(measured: Measured | None, sign: str = "") -> str:
    if measured is None:
        return ""
    digits = 1 if max(abs(measured.low), abs(measured.high)) >= 20 else 2
    value, low, high = (f"{number:{sign}.{digits}f}" for number in (measured.value, measured.low, measured.high))
    return f"{value} ({low}, {high})"


def costs_grid(report: DocumentReport) -> Grid:
    """Memory of each condition, and what else was measured of it."""
    has_retention = any(one.retention is not None for one in report.results)
    has_times = any(one.cost is not None for one in report.results)
    whole = next((one.kv_bytes for one in report.results if one.family == WHOLE_DOCUMENT), 0)
    columns = [_CONDITION, Column("rows"), Column("memory, MB")]
    columns += [Column("of the document's")] if whole else []
    columns += [Column("retention ↓")] if has_retention else []
    columns += [Column("first token, s, read"), Column("first token, s, held"), Column("tokens/s")] if has_times else []
    rows = []
    for one in report.results:
        texts = [one.name, f"{one.num_rows:,}", f"{one.kv_bytes / 1e6:,.2f}"]
        texts += [f"{one.kv_bytes / whole:.1%}"] if whole else []
        texts += ["" if one.retention is None else f"{one.retention:.3f}"] if has_retention else []
        texts += _times(one) if has_times else []
        rows.append(tuple(map(Cell, texts)))
    return Grid(tuple(columns), tuple(rows))


def costs_title(report: DocumentReport) -> str:
    """What the columns of `costs_grid` are of."""
    title = "keys and values in front of each question"
    if all(one.cost is None for one in report.results):
        return title
    return f"{title}; one answer at a time, medians (read: with the whole prompt; held: after keys and values at hand)"


def _times(one: ConditionReport) -> list[str]:
    if (cost := one.cost) is None:
        return ["", "", ""]
    return [f"{cost.first_token_s:.3f}", f"{cost.first_token_cached_s:.3f}", f"{cost.tokens_per_s:.1f}"]
