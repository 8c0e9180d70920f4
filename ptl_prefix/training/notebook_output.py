"""One output of a notebook's cell, which is replaced while something proceeds: a bar with the time left, and a table.

In: numbers. Out: HTML, and the same as text where a notebook is read without it. Neither a terminal nor ipywidgets is
needed.
"""

import html
import time
from collections.abc import Sequence
from typing import Any

_UPDATE_EVERY_S = 0.5
"""Seconds between two updates, each of which is a message to the notebook's page."""

_SHORT_S = 1.0
"""Seconds after which a bar appears."""


class LiveOutput:
    """One output of a notebook's cell, whose content is replaced."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._shown_at = float("-inf")

    @property
    def is_shown(self) -> bool:
        """Whether there is content."""
        return self._handle is not None

    @property
    def is_due(self) -> bool:
        """Whether the content is old enough to be replaced."""
        return time.monotonic() - self._shown_at >= _UPDATE_EVERY_S

    def show(self, markup: str, text: str) -> None:
        """Show HTML, and the same as text."""
        from IPython.display import display

        content = {"text/html": markup, "text/plain": text}
        if self._handle is None:
            self._handle = display(content, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(content, raw=True)
        self._shown_at = time.monotonic()


class LiveBar:
    """A bar in a notebook, which appears if what it counts takes more than a moment.

    Args:
        label: Name of what is counted.
    """

    def __init__(self, label: str) -> None:
        self._label, self._began, self._output = label, time.monotonic(), LiveOutput()

    def move(self, done: int, total: int | None, text: str = "") -> None:
        """Move the bar, unless it was moved just now.

        Args:
            done: Number of finished units.
            total: Number of all units; `None` if it is not known.
            text: Line in place of the bar where the total is not known.
        """
        seconds = time.monotonic() - self._began
        is_last = done == total and self._output.is_shown
        if not is_last and (seconds < _SHORT_S or not self._output.is_due):
            return
        if total is None:
            line = f"{text}, {seconds:.0f} s"
            self._output.show(f"<code>{html.escape(line)}</code>", line)
        else:
            line = progress_line(self._label, done, total, seconds=seconds)
            self._output.show(bar_markup(line, done, total), line)


def progress_line(
    label: str, done: int, total: int, *, seconds: float, first: int = 0, more: Sequence[str] = ()
) -> str:
    """The state of a bar as text, such as `train 240/400, 62 s, 41 s left`.

    Args:
        label: Name of what proceeds.
        done: Number of finished units.
        total: Number of all units.
        seconds: Seconds since the start.
        first: Number of units that were finished at the start.
        more: Further numbers, as text.
    """
    left = f"{seconds / (done - first) * (total - done):.0f} s left" if first < done < total else ""
    return ", ".join(filter(None, [f"{label} {done}/{total}", f"{seconds:.0f} s", left, *more]))


def bar_markup(line: str, done: int, total: int) -> str:
    """A bar and the line beside it, as HTML."""
    bar = f'<progress value="{done}" max="{total}" style="width: 16em; vertical-align: middle"></progress>'
    return f"<div>{bar} <code>{html.escape(line)}</code></div>"


def table_markup(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as HTML."""
    cells = ["".join(f"<th>{html.escape(one)}</th>" for one in headings)]
    cells += ["".join(f"<td>{html.escape(one)}</td>" for one in row) for row in rows]
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>"
