"""The page of the benchmarks' results.

In: a folder with the stored result of each part that was run. Out: `README.md` in it, with a table, goals, a plot and
the machine of each part. It depends on the stored results alone: written again, it is the same page.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.goals import Rows, goal_rows
from benchmarks.parts import PARTS, Part
from ptl_prefix.artifacts.atomic import write_atomically

RESULTS = "results"
_INTRODUCTION = """# Benchmarks

Side-by-side measurements. `make bench` runs all of them in at most an hour on two cores and writes this page;
`make bench-quick` takes at most five minutes with smaller shapes, and writes a page of its own to
`outputs/benchmarks/quick/`. Contenders take turns, in rounds of a random order, so that a slow period of the machine
affects all of them: ratios are what to compare. Each benchmark is a module that runs alone, with more settings:
`python -m benchmarks.step_time --help`.

A run that was interrupted, or in which a part failed, is resumed by the next call: it runs the parts that are missing.
`ARGS="--only step_time"` chooses parts, `ARGS=--fresh` runs all of them again. Parts on real data need
`PTL_PREFIX_DATA`, the folder of the data. One benchmark is no part of it, as it needs a GPU:
`python -m benchmarks.gpu_day` takes at most ten minutes; `--device cpu --tiny` tests its code.

This page is generated from the files in `results/`; `python -m benchmarks --page-only` writes it again.
"""


@dataclass(frozen=True)
class Result:
    """What a part has measured.

    Args:
        command: Command that anyone can repeat.
        seconds: Seconds that it took.
        date: Day of the run, as YYYY-MM-DD.
        report: Report of the benchmark.
    """

    command: str
    seconds: float
    date: str
    report: dict[str, Any]


def result_path(folder: Path, part: Part) -> Path:
    """The file of a part's result."""
    return folder / RESULTS / f"{part.module}.json"


def read_result(folder: Path, part: Part) -> Result | None:
    """The stored result of a part; `None` if it was never run."""
    path = result_path(folder, part)
    return Result(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def write_page(folder: Path, parts: Sequence[Part] = PARTS) -> Path:
    """Write the page and its plots from the stored results."""
    sections = [_INTRODUCTION]
    for part in parts:
        result = read_result(folder, part)
        body = "Not measured yet.\n" if result is None else "\n".join(_section(folder, part, result))
        sections.append(f"## {part.title}\n\n{part.about}\n\n{body}")
    path = folder / "README.md"
    write_atomically(path, "\n".join(sections))
    return path


def _section(folder: Path, part: Part, result: Result) -> Iterator[str]:
    yield f"`{result.command}`, {result.date}, {result.seconds:.0f} s, {machine(result.report['environment'])}:\n"
    section = part.section(result.report)
    yield _table(section.table)
    if section.remarks:
        yield "\n".join([*section.remarks, ""])
    if section.goals:
        yield _table(goal_rows(section.goals))
    if section.plot is not None and section.plot.values:
        name = f"{RESULTS}/{part.module}.svg"
        section.plot.draw(folder / name)
        yield f"![{part.title}: {section.plot.unit}]({name})\n"


def machine(environment: dict[str, Any]) -> str:
    """The machine of a report in a few words."""
    libraries, devices = environment["libraries"], environment["devices"]
    parts = [environment["cpu"], f"{environment['cores']} cores", *devices, f"Python {environment['python']}"]
    return ", ".join([*parts, f"torch {libraries['torch']}", f"transformers {libraries['transformers']}"])


def _table(rows: Rows) -> str:
    heading, *others = rows
    marks = ["---", *(["---:"] * (len(heading) - 1))]
    return "".join(f"| {' | '.join(row)} |\n" for row in (heading, marks, *others))
