"""`ptl-prefix runs`: what runs there are, and what has become of them, as a table or as JSON."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

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
_FILTERS = {"status": "state", "task": "task", "backbone": "backbone", "method": "method"}
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))


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
    Console().print(_table(lines))


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


def _table(lines: Sequence[RunLine]) -> Table:
    table = Table(caption=_caption(lines), caption_justify="left")
    headings = ("status", "method", "seed", "step", "metric", "value", "age", "size", "run")
    for heading in headings:
        is_number = heading in ("seed", "step", "value", "age", "size")
        table.add_column(heading, justify="right" if is_number else "left", no_wrap=heading != "run", overflow="fold")
    for line in lines:
        cells = (
            line.method,
            "" if line.seed is None else str(line.seed),
            f"{line.step:,}",
            line.metric,
            "" if line.value is None else f"{line.value:.4f}",
            age(line.age_s),
            byte_count(line.size_bytes),
            str(line.path),
        )
        table.add_row(Text(line.state, style=_STYLES[line.state]), *map(Text, cells))
    return table


def _caption(lines: Sequence[RunLine]) -> str:
    counts = {state: sum(line.state == state for line in lines) for state in _STYLES}
    total = sum(line.size_bytes for line in lines)
    return f"{', '.join(f'{count} {state}' for state, count in counts.items() if count)}; {byte_count(total)} in all"


def age(seconds: float) -> str:
    """Seconds in the unit that people count them in."""
    for factor, unit in _UNITS:
        if seconds >= factor:
            return f"{seconds / factor:.0f} {unit}"
    return f"{seconds:.0f} s"
