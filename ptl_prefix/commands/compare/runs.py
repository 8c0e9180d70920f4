"""`ptl-prefix runs`: lists runs with their state, as a table or as JSON."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from ptl_prefix.artifacts.remote.fetch import is_summary
from ptl_prefix.artifacts.visible_text import escape_controls
from ptl_prefix.commands.terminal import format_age
from ptl_prefix.reporting.grids import format_bytes
from ptl_prefix.reporting.run_search import find_runs
from ptl_prefix.reporting.run_state import RunSummary, State, summarize_run
from ptl_prefix.training.console import EscapingConsole

_DEFAULT_FOLDER = "outputs"
_STYLES: dict[State, str] = {
    "finished": "green",
    "running": "cyan",
    "open": "cyan",
    "stopped": "yellow",
    "died": "bold red",
    "failed": "red",
    "damaged": "red",
    "pruned": "dim",
}
_FILTERS = {"status": "state", "task_name": "task", "backbone_name": "backbone", "method_name": "method"}
_HEADINGS = ("status", "method", "seed", "step", "metric", "value", "age", "size", "run")
_NUMBERS = ("seed", "step", "value", "age", "size")


def run(config: dict[str, Any], words: tuple[str, ...], run_folder: Path) -> None:
    """List runs.

    Args:
        config: Filters, `sort` and `format`.
        words: Folders to search, or addresses in an object store; `outputs` if there are none.
        run_folder: Not used, because listing is not a run.
    """
    filters = {field: config[key] for key, field in _FILTERS.items() if config[key] is not None}
    runs = [
        one
        for one in map(summarize_run, find_runs(words or (_DEFAULT_FOLDER,), is_summary))
        if all(getattr(one, field) == value for field, value in filters.items())
    ]
    runs = _sort(runs, config["sort"])
    if config["format"] == "json":
        print(json.dumps([_values(one) for one in runs], indent=2))
        return
    if not runs:
        print("No run matches the filters; `ptl-prefix runs` without filters lists all runs.", file=sys.stderr)
        return
    _show(runs, EscapingConsole())


def _sort(runs: Sequence[RunSummary], by: str) -> list[RunSummary]:
    if by == "metric":
        # Metrics have different scales, so runs are sorted by the metric's name, then best first; no value comes last.
        return sorted(runs, key=lambda one: (one.value is None, one.metric, _lower_is_better(one)))
    if by == "size":
        return sorted(runs, key=lambda one: -one.size_bytes)
    field = {"age": "age_s", "status": "state"}.get(by, by)
    return sorted(runs, key=lambda one: (getattr(one, field), one.age_s))


def _lower_is_better(run: RunSummary) -> float:
    """The metric's value, negated if it is maximized."""
    value = run.value or 0.0
    return value if run.direction == "minimize" else -value


def _values(run: RunSummary) -> dict[str, Any]:
    return {**asdict(run), "path": str(run.path)}


def _show(runs: Sequence[RunSummary], console: Console) -> None:
    """Print one line per run on a terminal of any width; the path comes last and is never truncated."""
    # Escaped here, as widths are counted in characters.
    cells = [tuple(map(escape_controls, row)) for row in (_HEADINGS, *map(_cells, runs))]
    widths = [max(len(row[column]) for row in cells) for column in range(len(_HEADINGS))]
    for row, run in zip(cells, (None, *runs), strict=True):
        texts = [
            text.rjust(width) if heading in _NUMBERS else text.ljust(width)
            for heading, text, width in zip(_HEADINGS, row, widths, strict=True)
        ]
        shown = Text("  ".join(texts).rstrip())
        shown.stylize("bold" if run is None else _STYLES[run.state], 0, shown.plain.find("  ") if run else None)
        console.print(shown, soft_wrap=True)
    console.print(Text(_caption(runs), style="dim"))


def _cells(run: RunSummary) -> tuple[str, ...]:
    return (
        run.state,
        run.method,
        "" if run.seed is None else str(run.seed),
        f"{run.step:,}",
        run.metric,
        "" if run.value is None else f"{run.value:.4f}",
        format_age(run.age_s),
        format_bytes(run.size_bytes),
        str(run.path),
    )


def _caption(runs: Sequence[RunSummary]) -> str:
    counts = {state: sum(run.state == state for run in runs) for state in _STYLES}
    total = sum(run.size_bytes for run in runs)
    return (
        f"{', '.join(f'{count} {state}' for state, count in counts.items() if count)}; {format_bytes(total)} in total"
    )
