"""Prints a grid of text cells on a terminal of any width.

In: a grid of a comparison. Out: one table, or several where the terminal is too narrow; no cell is truncated.
"""

import re
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from ptl_prefix.artifacts.visible_text import escape_controls
from ptl_prefix.reporting.grids import MARKS, Cell, Column, Grid

_MAX_HEADING_LINE = 14
_MAX_WORD = 24
_BORDER = 3
_NAMES = ("#", "method", "condition")
"""Headings of the columns that name a row."""


def show_grid(grid: Grid, console: Console, *, title: str = "") -> None:
    """Print a grid as one table, or as several where the terminal is too narrow."""
    for part in _parts(grid, console.width):
        console.print(_rich(part, title, console.width))
        title = ""


def _parts(grid: Grid, width: int) -> Iterator[Grid]:
    """Split a grid into grids that fit the terminal, each with the columns that name a row."""
    names = [column for column in grid.columns if column.heading in _NAMES]
    available = width - sum(_width(grid, column) for column in names) - 1
    others = [column for column in grid.columns if column not in names]
    while others:
        fitting = [others.pop(0)]
        while others and sum(_width(grid, column) for column in (*fitting, others[0])) <= available:
            fitting.append(others.pop(0))
        yield keep_columns(grid, [*names, *fitting].__contains__)


def keep_columns(grid: Grid, is_wanted: Callable[[Column], bool]) -> Grid:
    """The grid with some of its columns."""
    kept = [index for index, column in enumerate(grid.columns) if is_wanted(column)]
    rows = tuple(tuple(row[index] for index in kept) for row in grid.rows)
    return Grid(tuple(grid.columns[index] for index in kept), rows)


def _width(grid: Grid, column: Column) -> int:
    return _min_width(_texts(grid)[grid.columns.index(column)]) + _BORDER


def _texts(grid: Grid) -> list[list[str]]:
    """For each column, its heading and its cells as they are shown."""
    return [
        [_broken(column.heading), *(_marked(row[index]) for row in grid.rows)]
        for index, column in enumerate(grid.columns)
    ]


def _min_width(texts: Sequence[str]) -> int:
    """The width of a column's longest word: lines break only between words, except in very long names."""
    return min(max(len(word) for text in texts for word in text.split()), _MAX_WORD)


def _max_width(texts: Sequence[str]) -> int:
    return max(len(line) for text in texts for line in text.split("\n"))


def _widths(grid: Grid, width: int) -> list[int]:
    """Column widths: the longest word first; the remaining width goes to the columns from left to right."""
    texts = _texts(grid)
    widths = [_min_width(column) for column in texts]
    spare = width - 1 - sum(widths) - _BORDER * len(widths)
    for index, column in enumerate(texts):
        grown = max(0, min(spare, _max_width(column) - widths[index]))
        widths[index] += grown
        spare -= grown
    return widths


def _broken(heading: str) -> str:
    """Break a metric's name into lines after slashes and underscores."""
    lines = [""]
    for part in re.findall(r"[^/_]*[/_]?", escape_controls(heading)):
        if lines[-1] and len(lines[-1]) + len(part) > _MAX_HEADING_LINE:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _rich(grid: Grid, title: str, width: int) -> RichTable:
    shown = RichTable(title=Text(title) if title else None, title_justify="left")
    for column, own in zip(grid.columns, _widths(grid, width), strict=True):
        shown.add_column(Text(_broken(column.heading)), justify=column.align, width=own, overflow="fold")
    for row in grid.rows:
        shown.add_row(*(Text(_marked(cell), style=_style(cell)) for cell in row))
    return shown


def _marked(cell: Cell) -> str:
    return escape_controls(cell.text) + ("" if cell.standing is None else MARKS[cell.standing].strip())


def _style(cell: Cell) -> str:
    return {"best": "bold green", "worse": "dim"}.get(cell.standing or "", "")
