"""Prints a document's report: quality under each condition, its differences to the prefix, and costs."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ptl_prefix.artifacts.document_report import ConditionReport, DocumentReport, Measured, RefusedTexts
from ptl_prefix.artifacts.visible_text import escape_controls
from ptl_prefix.commands.terminal import format_bytes

_ARROWS = {"minimize": "↓", "maximize": "↑"}


def show_report(report: DocumentReport, console: Console) -> None:
    """Print a report."""
    counts = ", ".join(f"{number} {kind}" for kind, number in report.num_questions.items())
    title = f"{report.document}, {report.num_tokens:,} tokens, on {report.backbone} ({report.dtype}): {counts}"
    console.print(Text(escape_controls(title)), soft_wrap=True)
    console.print(_quality(report))
    if report.compared_to is not None and len(report.results) > 1:
        console.print(_differences(report))
    if any(one.cost is not None for one in report.results):
        console.print(_costs(report))
    for name, reason in report.skipped.items():
        console.print(Text(escape_controls(f"{name} is skipped: {reason}")), soft_wrap=True)
    if report.gate is not None:
        gate = report.gate
        line = (
            f"relevance gate at {gate.wrong_refusals:g} wrong refusals: refuses {_share(gate.foreign)} foreign texts, "
            f"and {_share(gate.own)} questions about the document"
        )
        console.print(Text(line), soft_wrap=True)


def _share(texts: RefusedTexts) -> str:
    return f"{texts.refused} of {texts.of} ({texts.refused / texts.of:.0%})"


def _quality(report: DocumentReport) -> Table:
    table = Table(caption="in brackets the 95% interval over the questions", caption_justify="left")
    table.add_column("condition")
    table.add_column("rows", justify="right", no_wrap=True)
    table.add_column("memory", justify="right", no_wrap=True)
    for name, info in report.metric_info.items():
        table.add_column(f"{name} {_ARROWS[info.direction]}", justify="right")
    has_retention = any(one.retention is not None for one in report.results)
    if has_retention:
        table.add_column("retention ↓", justify="right")
    for one in report.results:
        retention = ["" if one.retention is None else f"{one.retention:.3f}"] if has_retention else []
        values = [_interval(one.values.get(name)) for name in report.metric_info]
        memory = [f"{one.num_rows:,}", format_bytes(one.kv_bytes)]
        table.add_row(_name(one, report), *memory, *values, *retention)
    return table


def _name(one: ConditionReport, report: DocumentReport) -> Text:
    return Text(escape_controls(one.name), style="bold" if one.name == report.compared_to else "")


def _interval(measured: Measured | None, sign: str = "") -> str:
    if measured is None:
        return ""
    digits = 1 if max(abs(measured.low), abs(measured.high)) >= 20 else 2
    numbers = (f"{value:{sign}.{digits}f}" for value in (measured.value, measured.low, measured.high))
    return "{} [{}, {}]".format(*numbers)


def _differences(report: DocumentReport) -> Table:
    base = report.result(str(report.compared_to))
    table = Table(
        title=Text(escape_controls(f"differences to {base.name}, over the same questions")),
        title_justify="left",
    )
    table.add_column("condition")
    for name, info in report.metric_info.items():
        table.add_column(f"{name} {_ARROWS[info.direction]}", justify="right")
    for one in (one for one in report.results if one is not base):
        differences: Sequence[str] = [_interval(one.differences.get(name), "+") for name in report.metric_info]
        table.add_row(_name(one, report), *differences)
    return table


def _costs(report: DocumentReport) -> Table:
    table = Table(
        title="one answer at a time, medians",
        title_justify="left",
        caption_justify="left",
        caption="read: the whole prompt is read; held: keys and values of the context are at hand",
    )
    for heading in ("condition", "first token, read", "first token, held", "tokens/s"):
        table.add_column(heading, justify="left" if heading == "condition" else "right")
    for one in report.results:
        if (cost := one.cost) is not None:
            numbers = (f"{cost.first_token_s:.3f} s", f"{cost.first_token_cached_s:.3f} s", f"{cost.tokens_per_s:.1f}")
            table.add_row(_name(one, report), *numbers)
    return table
