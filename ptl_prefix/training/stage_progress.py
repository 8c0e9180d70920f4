"""Progress of the stages around a training: tokenising, measuring the bare backbone, decoding.

In: a console and the name of a stage. Out: a bar on a terminal while the stage runs; elsewhere a line every half
minute, so that short stages print nothing.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

LINE_EVERY_S = 30.0
"""Seconds between lines where no bar can be drawn, for example in the log of a cluster's job."""

Batch = TypeVar("Batch")
Advance = Callable[[int], None]
"""Called with the number of units that were done since the last call."""


@contextmanager
def stage_progress(console: Console, label: str, total: int | None = None, *, shown: bool = True) -> Iterator[Advance]:
    """Show that a stage runs while the block runs.

    Args:
        console: Console of the progress.
        label: What is done, such as `decoding`.
        total: Number of units; `None` if it is not known.
        shown: Whether progress is shown at all.
    """
    if not shown or console.quiet:
        yield lambda count: None
    elif console.is_terminal:
        columns = [] if total is None else [MofNCompleteColumn()]
        with Progress(
            SpinnerColumn(), TextColumn(label), *columns, TimeElapsedColumn(), console=console, transient=True
        ) as bar:
            task = bar.add_task("", total=total)
            yield lambda count: bar.advance(task, count)
    else:
        with _lines(console, label, total) as advance:
            yield advance


@contextmanager
def _lines(console: Console, label: str, total: int | None) -> Iterator[Advance]:
    done, began, ended = [0], time.monotonic(), threading.Event()

    def advance(count: int) -> None:
        done[0] += count

    def print_lines() -> None:
        while not ended.wait(LINE_EVERY_S):
            console.print(stage_line(label, done[0], total, time.monotonic() - began), highlight=False, markup=False)

    thread = threading.Thread(target=print_lines, name="stage progress", daemon=True)
    thread.start()
    try:
        yield advance
    finally:
        ended.set()
        thread.join()


def stage_line(label: str, done: int, total: int | None, seconds: float) -> str:
    """One line about a running stage."""
    return f"{label}{'' if total is None else f' {done} of {total}'}, {seconds:.0f} s"


def tracked(batches: Iterable[Batch], advance: Advance) -> Iterator[Batch]:
    """The batches, each of which counts as one unit when the next one is asked for."""
    for batch in batches:
        yield batch
        advance(1)
