"""The plots of the HTML page as Plotly figures: data and layout, without the page's colours.

In: a `Table`. Out: `Figure`s as JSON values. Each trace has the number of its row in `meta`; the page uses it to show,
hide and colour the trace.
"""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.reporting.grids import arrow
from ptl_prefix.reporting.statistics import pareto_front
from ptl_prefix.reporting.table import Row, Table

Json = dict[str, Any]

_LARGEST_NUMBER = 1e100
"""Larger settings are left out of plots: an integer may not fit a float."""


@dataclass(frozen=True)
class Figure:
    """One plot.

    Args:
        title: Heading.
        note: Explanation of bands, bars and lines.
        variants: Plotly's `data` and `layout` by metric; the only key is `""` if the metric does not matter.
    """

    title: str
    note: str
    variants: Mapping[str, Json]


def build_figures(table: Table) -> list[Figure]:
    """Build learning curves, quality over parameters, and quality over each numeric setting in which rows differ."""
    return [*_curves(table), *_over_parameters(table), *_over_settings(table)]


def _curves(table: Table) -> list[Figure]:
    """Validation loss by step and by tokens; no figures if no run has logged any."""
    if not any(run.curve for row in table.rows for run in row.runs):
        return []
    note = "Mean over seeds; the band spans minimum to maximum. Step 0 is the bare backbone."
    by_step = [trace for row in table.rows for trace in _curve_traces(row, 1.0)]
    by_tokens = [trace for row in table.rows for trace in _curve_traces(row, row.cost.tokens / max(row.cost.steps, 1))]
    return [
        Figure("Learning curves by step", note, {"": _plot(by_step, _axis("step"), _axis("val/loss ↓", kind="log"))}),
        Figure(
            "Learning curves by tokens",
            f"{note} Tokens include prompts and targets; every step counts as the mean number of tokens per step.",
            {"": _plot(by_tokens, _axis("tokens"), _axis("val/loss ↓", kind="log"))},
        ),
    ]


def _curve_traces(row: Row, per_step: float) -> list[Json]:
    """A line through the means at the steps that all seeds validated, and a band from minimum to maximum."""
    curves = [dict(run.curve) for run in row.runs if run.curve]
    steps = sorted(set.intersection(*map(set, curves))) if curves else []
    at = [[curve[step] for curve in curves] for step in steps]
    x = [step * per_step for step in steps]
    line = _trace(row, x, [fmean(values) for values in at], mode="lines+markers", marker={"size": 5})
    line["hovertemplate"] = "%{y:.4f} at %{x:,.0f}"
    if len(curves) < 2:
        return [line]
    lows, highs = [min(values) for values in at], [max(values) for values in at]
    band = _trace(row, [*x, *reversed(x)], [*highs, *reversed(lows)], mode="lines", fill="toself", hoverinfo="skip")
    return [{**band, "line": {"width": 0}, "meta": {"row": row.number, "is_band": True}}, line]


def _over_parameters(table: Table) -> list[Figure]:
    figures = []
    costs: tuple[tuple[str, Callable[[Row], int]], ...] = (
        ("trainable", lambda row: row.cost.num_trainable),
        ("stored", lambda row: row.cost.num_stored),
    )
    for name, cost in costs:
        variants = {metric: _quality_plot(table, metric, f"{name} parameters", cost) for metric in table.metrics}
        note = (
            "Bars: 95% confidence intervals. The dotted line is the Pareto front of the means: no row with as few "
            "parameters is better."
        )
        figures.append(Figure(f"Quality over {name} parameters", note, variants))
    return figures


def _quality_plot(table: Table, metric: str, heading: str, cost: Callable[[Row], int]) -> Json:
    rows = [row for row in table.rows if metric in row.summaries and cost(row) > 0]
    points = {row.number: (float(cost(row)), row.summaries[metric].mean) for row in rows}
    front = [points[number] for number in pareto_front(points, table.metrics[metric].direction)]
    traces = [_point(row, float(cost(row)), metric, table.metrics[metric]) for row in rows]
    line = {
        "type": "scatter",
        "mode": "lines",
        "x": [x for x, _ in front],
        "y": [y for _, y in front],
        "line": {"shape": "hv", "dash": "dot", "width": 1.5},
        "hoverinfo": "skip",
        "meta": {"is_front": True},
    }
    return _plot(
        [line, *traces],
        _log_axis(heading, [x for x, _ in points.values()]),
        _metric_axis(table, metric),
        _bare_value(table, metric),
    )


def _over_settings(table: Table) -> list[Figure]:
    """One plot per numeric setting in which two rows differ while all other settings are equal."""
    figures = []
    for key in dict.fromkeys(key for row in table.rows for key, value in row.settings.items() if _is_number(value)):
        series = _series(table.rows, key)
        if series:
            variants = {metric: _setting_plot(table, key, series, metric) for metric in table.metrics}
            note = "Lines join rows that differ only in this setting. Bars: 95% confidence intervals."
            figures.append(Figure(f"Quality over {key.removeprefix('method.')}", note, variants))
    return figures


def _series(rows: Sequence[Row], key: str) -> list[list[Row]]:
    """Groups of at least two rows that differ only in one setting, sorted by that setting."""
    groups: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if _is_number(row.settings.get(key)):
            others = sorted((name, repr(value)) for name, value in row.settings.items() if name != key)
            groups[repr((row.method, others))].append(row)
    return [sorted(group, key=lambda row: float(row.settings[key])) for group in groups.values() if len(group) > 1]


def _setting_plot(table: Table, key: str, series: Sequence[Sequence[Row]], metric: str) -> Json:
    traces = []
    for rows in series:
        measured = [row for row in rows if metric in row.summaries]
        x = [float(row.settings[key]) for row in measured]
        y = [row.summaries[metric].mean for row in measured]
        join = {"type": "scatter", "mode": "lines", "x": x, "y": y, "hoverinfo": "skip", "meta": {"is_join": True}}
        traces += [
            {**join, "line": {"width": 1.5}},
            *(_point(row, float(row.settings[key]), metric, table.metrics[metric]) for row in measured),
        ]
    values = [float(row.settings[key]) for rows in series for row in rows]
    heading = key.removeprefix("method.")
    is_wide = min(values) > 0 and max(values) / min(values) > 8
    return _plot(
        traces,
        {**_axis(heading), **_ticks(sorted(set(values)), is_log=is_wide)},
        _metric_axis(table, metric),
        _bare_value(table, metric),
    )


def _point(row: Row, x: float, metric: str, info: MetricInfo) -> Json:
    summary = row.summaries[metric]
    trace = _trace(row, [x], [summary.mean], mode="markers+text", marker={"size": 11}, text=[str(row.number)])
    trace |= {"textposition": "middle right", "hovertemplate": "%{y:.4f} at %{x:,}", "cliponaxis": False}
    if summary.half_width is not None:
        trace["error_y"] = {**_error_bar(summary.mean, summary.half_width, info), "width": 4, "thickness": 1.2}
    return trace


def _error_bar(mean: float, half: float, info: MetricInfo) -> Json:
    """The interval around a mean, within the metric's scale: an accuracy of 1.02 does not exist."""
    lowest, highest = _ends_of_scale(info.scale)
    above, below = (max(0.0, min(half, room)) for room in (highest - mean, mean - lowest))
    bar: Json = {"type": "data", "array": [above]}
    return bar if above == below else {**bar, "symmetric": False, "arrayminus": [below]}


def _ends_of_scale(scale: str) -> tuple[float, float]:
    """The ends of a scale: of `0-100`, 0 and 100; rates, losses and information have no upper end."""
    if match := re.fullmatch(r"(\d+)-(\d+)", scale):
        return float(match[1]), float(match[2])
    return (-math.inf if scale == "?" else 0.0), math.inf


def _trace(row: Row, x: Sequence[float], y: Sequence[float], **more: Any) -> Json:
    return {"type": "scatter", "name": f"{row.number}", "x": list(x), "y": list(y), "meta": {"row": row.number}, **more}


def _plot(traces: Sequence[Json], x_axis: Json, y_axis: Json, bare: float | None = None) -> Json:
    layout: Json = {"xaxis": x_axis, "yaxis": y_axis, "showlegend": False, "hovermode": "closest"}
    if bare is not None:
        layout["shapes"] = [
            {
                "type": "line",
                "xref": "paper",
                "x0": 0,
                "x1": 1,
                "y0": bare,
                "y1": bare,
                "line": {"dash": "dash", "width": 1},
            }
        ]
        layout["annotations"] = [
            {
                "xref": "paper",
                "x": 1,
                "xanchor": "right",
                "y": bare,
                "yanchor": "bottom",
                "text": "bare backbone",
                "showarrow": False,
            }
        ]
    return {"data": list(traces), "layout": layout}


def _axis(title: str, *, kind: str = "linear") -> Json:
    return {"title": {"text": title}, "type": kind, "automargin": True, "zeroline": False}


def _log_axis(title: str, values: Sequence[float]) -> Json:
    """A logarithmic axis between powers of ten, so that it always has at least two ticks."""
    powers = [math.log10(value) for value in values] or [0.0]
    ends = [math.floor(min(powers) - 0.05), math.ceil(max(powers) + 0.05)]
    return {**_axis(title, kind="log"), "range": ends, "dtick": 1, "exponentformat": "SI"}


def _bare_value(table: Table, metric: str) -> float | None:
    """The bare backbone's value; `None` if it is so far off that the rows could not be distinguished next to it."""
    bare = table.bare.get(metric)
    means = [row.summaries[metric].mean for row in table.rows if metric in row.summaries]
    if bare is None or not means:
        return None
    off = max(min(means) - bare, bare - max(means))
    return bare if off <= max(means) - min(means) or len(means) == 1 else None


def _ticks(values: Sequence[float], *, is_log: bool) -> Json:
    """An axis with a tick at each value and a margin at both ends."""
    ends = [math.log10(values[0]), math.log10(values[-1])] if is_log else [values[0], values[-1]]
    margin = max(0.08 * (ends[1] - ends[0]), 1e-9)
    return {
        "type": "log" if is_log else "linear",
        "range": [ends[0] - margin, ends[1] + margin],
        "tickvals": list(values),
    }


def _metric_axis(table: Table, metric: str) -> Json:
    return _axis(f"{metric} {arrow(table.metrics[metric])}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST_NUMBER
