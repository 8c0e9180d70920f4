"""`ptl-prefix runs`: what runs there are, and what has become of them, as a table or as JSON."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from ptl_prefix.commands.terminal import format_age
from ptl_prefix.reporting.grids import byte_count
from ptl_prefix.reporting.run_search import find_runs
from ptl_prefix.reporting.run_state import RunLine, State, line_of

_DEFAULT_PLACE = "outputs"
_STYLES: dict[State, str] = {
    "finished": "green",
    "running": "cyan",
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
        config: Which runs, in which order, in which form.
        words: Folders; none: `outputs`.
        run_folder: Not used; listing is no run.
    """
    wanted = {field: config[key] for key, field in _FILTERS.items() if config[key] is not None}
    lines = [
        line
        for line in map(line_of, find_runs(words or (_DEFAULT_PLACE,)))
        if all(getattr(line, field) == value for field, value in wanted.items())
    ]
    lines = _ordered(lines, config["sort"])
    if config["format"] == "json":
        print(json.dumps([_values(line) for line in lines], indent=2))
        return
    if not lines:
        print("No run is like that; ptl-prefix runs lists all of them.", file=sys.stderr)
        return
    _show(lines, Console())


def _ordered(lines: Sequence[RunLine], by: str) -> list[RunLine]:
    if by == "metric":
        # Of several metrics each has its own scale: by name first, then the best, then those without a number.
        return sorted(lines, key=lambda line: (line.value is None, line.metric, _signed(line)))
    if by == "size":
        return sorted(lines, key=lambda line: -line.size_bytes)
    field = {"age": "age_s", "status": "state"}.get(by, by)
    return sorted(lines, key=lambda line: (getattr(line, field), line.age_s))


def _signed(line: RunLine) -> float:
    """The value, less where it is better."""
    value = line.value or 0.0
    return value if line.direction == "minimize" else -value


def _values(line: RunLine) -> dict[str, Any]:
    return {**asdict(line), "path": str(line.path)}


def _show(lines: Sequence[RunLine], console: Console) -> None:
    """A line for each run, however narrow the screen: the path comes last and is never cut."""
    cells = [_HEADINGS, *map(_cells, lines)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(_HEADINGS))]
    for row, line in zip(cells, (None, *lines), strict=True):
        texts = [
            text.rjust(width) if heading in _NUMBERS else text.ljust(width)
            for heading, text, width in zip(_HEADINGS, row, widths, strict=True)
        ]
        shown = Text("  ".join(texts).rstrip())
        shown.stylize("bold" if line is None else _STYLES[line.state], 0, shown.plain.find("  ") if line else None)
        console.print(shown, soft_wrap=True)
    console.print(Text(_caption(lines), style="dim"))


def _cells(line: RunLine) -> tuple[str, ...]:
    return (
        line.state,
        line.method,
        "" if line.seed is None else str(line.seed),
        f"{line.step:,}",
        line.metric,
        "" if line.value is None else f"{line.value:.4f}",
        format_age(line.age_s),
        byte_count(line.size_bytes),
        str(line.path),
    )


def _caption(lines: Sequence[RunLine]) -> str:
    counts = {state: sum(line.state == state for line in lines) for state in _STYLES}
    total = sum(line.size_bytes for line in lines)
    return f"{', '.join(f'{count} {state}' for state, count in counts.items() if count)}; {byte_count(total)} in all"
