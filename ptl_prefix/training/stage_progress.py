"""Progress of the stages around a training: encoding, measuring the bare backbone, decoding.

In: a console and the name of a stage. Out: a bar on a terminal or in a notebook while the stage runs; elsewhere a line
every half minute, so that short stages print nothing.
"""

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ptl_prefix.artifacts.jupyter_kernel import is_jupyter_kernel
from ptl_prefix.training.notebook_output import LiveBar

LINE_EVERY_S = 30.0
"""Seconds between lines where no bar can be drawn, for example in the log of a cluster's job."""

Batch = TypeVar("Batch")


class Advance(Protocol):
    """Counts what was done since the last call."""

    def __call__(self, count: int, share: float | None = None, /) -> None:
        """Count units.

        Args:
            count: Number of units since the last call.
            share: Share of the whole stage that is done, from 0 to 1, where no total is known; `None`: not known.
        """
        ...


@dataclass
class _Stage:
    """A running stage; see `stage_progress` for `label`, `total` and `unit`."""

    label: str
    total: int | None
    unit: str
    done: int = 0
    share: float | None = None

    def advance(self, count: int, share: float | None = None) -> None:
        self.done, self.share = self.done + count, share

    @property
    def progress(self) -> str:
        """What is done of the whole, after a space; empty as long as nothing is known."""
        if self.total is not None:
            return f" {self.done} of {self.total}"
        share = "" if self.share is None else f", {math.floor(100 * self.share)}%"
        return f" {self.done:,} {self.unit}{share}" if self.done else ""

    def time_left(self, seconds: float) -> str:
        """The time that the rest will take, after a comma; empty as long as nothing is known.

        Args:
            seconds: Time since the stage began.
        """
        share = self.done / self.total if self.total else self.share
        return f", about {seconds * (1 - share) / share:.0f} s left" if share else ""


@contextmanager
def stage_progress(
    console: Console,
    label: str,
    total: int | None = None,
    *,
    unit: str = "",
    shown: bool = True,
    after: Callable[[], None] | None = None,
) -> Iterator[Advance]:
    """Show that a stage runs while the block runs.

    Args:
        console: Console of the progress.
        label: What is done, such as `decoding`.
        total: Number of units; `None` if it is not known.
        unit: Name of the units, in the plural, where their total is not known.
        shown: Whether progress is shown at all.
        after: Called after each advance; an error in it ends the stage.
    """
    with _shown(console, _Stage(label, total, unit), shown=shown) as advance:
        if after is None:
            yield advance
            return

        def advance_and_call(count: int, share: float | None = None, /) -> None:
            advance(count, share)
            after()

        yield advance_and_call


@contextmanager
def _shown(console: Console, stage: _Stage, *, shown: bool) -> Iterator[Advance]:
    if not shown or console.quiet:
        yield stage.advance
    elif is_jupyter_kernel():
        yield _in_notebook(stage)
    elif console.is_terminal:
        with _bar(console, stage) as advance:
            yield advance
    else:
        with _lines(console, stage):
            yield stage.advance


def _in_notebook(stage: _Stage) -> Advance:
    bar = LiveBar(stage.label)

    def advance(count: int, share: float | None = None, /) -> None:
        stage.advance(count, share)
        bar.move(stage.done, stage.total, f"{stage.label}{stage.progress}")

    return advance


@contextmanager
def _bar(console: Console, stage: _Stage) -> Iterator[Advance]:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.fields[stage].label}{task.fields[stage].progress}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=stage.total, stage=stage)

        def advance(count: int, share: float | None = None, /) -> None:
            stage.advance(count, share)
            if stage.total is None and share is not None:
                bar.update(task, total=1.0, completed=share)
            else:
                bar.update(task, completed=stage.done)

        yield advance


@contextmanager
def _lines(console: Console, stage: _Stage) -> Iterator[None]:
    began, ended = time.monotonic(), threading.Event()

    def print_lines() -> None:
        while not ended.wait(LINE_EVERY_S):
            seconds = time.monotonic() - began
            line = f"{stage.label}{stage.progress}, {seconds:.0f} s{stage.time_left(seconds)}"
            console.print(line, highlight=False, markup=False)

    thread = threading.Thread(target=print_lines, name="stage progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def tracked(batches: Iterable[Batch], advance: Advance) -> Iterator[Batch]:
    """The batches, each of which counts as one unit when the next one is asked for."""
    for batch in batches:
        yield batch
        advance(1)
