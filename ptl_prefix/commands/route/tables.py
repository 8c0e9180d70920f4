"""Prints the routing of texts: shares by task, who was taken for whom, and regret."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ptl_prefix.artifacts.visible_text import escape_controls
from ptl_prefix.commands.route.decoded_regret import DecodedRegret
from ptl_prefix.commands.terminal import format_duration
from ptl_prefix.evaluation.routing import RoutingReport, Share, TaskRouting

_SHARES = ("right", "wrong", "refused", "nearest")


def show_report(router: str, report: RoutingReport, wrong_refusals: float, console: Console) -> None:
    """Print how one router did."""
    table = Table(title=Text(f"Routing by {router}, {wrong_refusals:g} wrong refusals"), title_justify="left")
    for heading in ("task", "inputs", *_SHARES):
        table.add_column(heading, justify="left" if heading == "task" else "right", no_wrap=True)
    for one in (*report.tasks, report.overall):
        name = f"  {one.group}" if one.group else one.name or "all"
        style = "dim" if one.group else ("bold" if not one.name else None)
        shares = [f"{getattr(one, share).value:.3f}" for share in _SHARES]
        table.add_row(Text(escape_controls(name)), f"{one.right.of:,}", *shares, style=style)
    console.print(table)
    if report.answered is not None:
        console.print(Text(f"accuracy of the answered inputs: {_with_interval(report.answered)}"), soft_wrap=True)
    if report.foreign is not None:
        console.print(Text(f"foreign texts accepted: {_with_interval(report.foreign)}"), soft_wrap=True)
    console.print(_confusion(report))


def _with_interval(share: Share) -> str:
    low, high = share.interval
    return f"{share.value:.4f}, 95% interval {low:.4f} to {high:.4f} ({share.count:,} of {share.of:,})"


def _confusion(report: RoutingReport) -> Table:
    table = Table(title="Texts of the task at the left, by the chosen task", title_justify="left")
    table.add_column("")
    for column in next(iter(report.confusion.values())):
        table.add_column(Text(column), justify="right", no_wrap=True)
    for row, counts in report.confusion.items():
        table.add_row(Text(row), *(f"{count:,}" if count else "." for count in counts.values()))
    return table


def show_regret(regrets: Sequence[DecodedRegret], console: Console) -> None:
    """Print what wrong choices cost."""
    table = Table(title="Regret: the metric under the chosen task minus that under the right one", title_justify="left")
    for heading in ("task", "metric", "right task", "regret", "95% interval"):
        table.add_column(heading, justify="left" if heading in ("task", "metric") else "right", no_wrap=True)
    for one in regrets:
        for place, found in enumerate(one.regrets):
            low, high = found.interval
            numbers = [f"{found.right:.4f}", f"{found.difference:+.4f}", f"{low:+.3f} to {high:+.3f}"]
            table.add_row("" if place else one.task, found.metric, *numbers)
    console.print(table)
    for one in regrets:
        line = f"{one.task}: {one.num_inputs:,} answered inputs, {one.num_wrong:,} of them by another task"
        console.print(Text(f"{line}; decoded in {format_duration(one.decode_s)}"), soft_wrap=True)


def as_values(report: RoutingReport) -> dict[str, Any]:
    """A report as JSON values: each share as its value, interval and counts."""
    return {
        "overall": _task_values(report.overall),
        "tasks": [_task_values(one) for one in report.tasks],
        "answered": _share_values(report.answered),
        "foreign": _share_values(report.foreign),
        "confusion": report.confusion,
    }


def _task_values(one: TaskRouting) -> dict[str, Any]:
    return {"task": one.name, "group": one.group, **{name: _share_values(getattr(one, name)) for name in _SHARES}}


def _share_values(share: Share | None) -> dict[str, Any] | None:
    return None if share is None else {"value": share.value, "interval": share.interval, **asdict(share)}
