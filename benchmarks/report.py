"""The report of a benchmark: a JSON file with the measured numbers, the machine and the libraries.

In: values. Out: a file, from which `page.py` writes its section; and the same section on the console.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.goals import Rows, goal_rows
from benchmarks.section import Report, Section
from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.artifacts.fingerprint import environment

_WIDTH = 140


def write_report(path: Path, values: Mapping[str, Any]) -> None:
    """Write a report with the description of the machine; its folder is created if it is missing."""
    write_atomically(path, json.dumps({**values, "environment": environment()}, indent=1, default=str) + "\n")
    print(f"written to {path}", flush=True)


def finish(path: Path, values: Mapping[str, Any], section: Callable[[Report], Section]) -> None:
    """Write a report, and print what the page shows of it."""
    write_report(path, values)
    shown, console = section(json.loads(path.read_text(encoding="utf-8"))), Console(width=_WIDTH)
    console.print(_table(shown.table))
    for remark in shown.remarks:
        console.print(remark, highlight=False, markup=False)
    if shown.goals:
        console.print(_table(goal_rows(shown.goals)))


def _table(rows: Rows) -> Table:
    table, (headings, *others) = Table(), rows
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place else "left")
    for row in others:
        table.add_row(*row)
    return table
