"""Quality against memory: what questions about a document are answered with how many rows of keys and values.

In: a `DocumentReport`. Out: the bytes of a PNG with one panel for each measure. Conditions of one family are one line;
no context and the whole document are levels between which the others are expected.
"""

import io
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from ptl_prefix.artifacts.document_report import NO_CONTEXT, WHOLE_DOCUMENT, ConditionReport, DocumentReport

_DPI = 150
_PANEL_WIDTH, _PANEL_HEIGHT, _PER_ROW = 5.6, 3.8, 2
_LEVELS: Mapping[str, tuple[str, str]] = {NO_CONTEXT: ("#7f8c8d", ":"), WHOLE_DOCUMENT: ("#2c3e50", "--")}
"""Colour and line style of the families that are levels."""
_COLOURS = ("#c0392b", "#2980b9", "#27ae60", "#8e44ad", "#d35400", "#16a085")


def render_document(report: DocumentReport) -> bytes:
    """Draw a report as a PNG."""
    buffer = io.BytesIO()
    _figure(report).savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()


def _figure(report: DocumentReport) -> Figure:
    names = list(report.metric_info)
    columns = min(_PER_ROW, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(_PANEL_WIDTH * columns, _PANEL_HEIGHT * rows + 0.8), layout="constrained")
    figure.suptitle(f"{report.document}, {report.num_tokens:,} tokens, on {report.backbone}", fontsize=13)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(names) :]:
        axes.remove()
    for axes, name in zip(panels, names, strict=False):
        _draw(axes, report, name)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4), frameon=False)
    return figure


def lines_of(results: Sequence[ConditionReport], measure: str) -> dict[str, list[ConditionReport]]:
    """The conditions with a value of a measure, by family, in the order of their rows."""
    families: dict[str, list[ConditionReport]] = {}
    for one in results:
        if measure in one.values:
            families.setdefault(one.family, []).append(one)
    return {family: sorted(own, key=lambda one: one.num_rows) for family, own in families.items()}


def _draw(axes: Axes, report: DocumentReport, measure: str) -> None:
    info = report.metric_info[measure]
    colours = iter(_COLOURS * len(report.results))
    has_lines = False
    for family, own in lines_of(report.results, measure).items():
        values = [one.values[measure] for one in own]
        if family in _LEVELS:
            colour, style = _LEVELS[family]
            axes.axhline(values[0].value, color=colour, linestyle=style, label=family)
            continue
        rows = [max(one.num_rows, 1) for one in own]
        # The percentile interval of a biased statistic may not hold its value.
        below = [max(one.value - one.low, 0.0) for one in values]
        above = [max(one.high - one.value, 0.0) for one in values]
        means = [one.value for one in values]
        axes.errorbar(rows, means, yerr=[below, above], marker="o", capsize=3, color=next(colours), label=family)
        has_lines = True
    axes.set_title(f"{measure} ({'lower' if info.direction == 'minimize' else 'higher'} is better)", fontsize=11)
    axes.set_xlabel("rows of keys and values")
    axes.set_ylabel(info.scale, fontsize=9)
    if has_lines:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(LogLocator(base=2))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda rows, _: f"{rows:.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
