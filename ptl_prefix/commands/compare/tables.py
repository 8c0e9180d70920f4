"""What a person sees of a comparison, on a screen of any width: quality, cost, and what must be said of them."""

import re
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from ptl_prefix.reporting.grids import LEGEND, MARKS, Cell, Column, Grid, cost_grid, quality_grid
from ptl_prefix.reporting.table import Table
from ptl_prefix.reporting.text_tables import bare_sentence

_LONGEST_HEADING = 14
_LONGEST_NAME = 24
_BORDER = 3


def show_table(table: Table, console: Console) -> None:
    """Print it."""
    title = f"{table.task} on {table.backbone}"
    for part in _parts(quality_grid(table), console.width):
        console.print(_rich(part, title, console.width))
        title = ""
    console.print(Text(f"{LEGEND}{bare_sentence(table)}"))
    # The tables above have said which row has which number.
    for part in _parts(_only(cost_grid(table), lambda column: column.heading != "method"), console.width):
        console.print(_rich(part, "", console.width))
    for sentence in table.caveats:
        console.print(Text(f"- {sentence}"))


def _parts(grid: Grid, width: int) -> Iterator[Grid]:
    """Tables that a screen has room for, each with the names of its rows."""
    names = [column for column in grid.columns if column.heading in ("#", "method")]
    room = width - sum(_width(grid, column) for column in names) - 1
    others = [column for column in grid.columns if column not in names]
    while others:
        taken = [others.pop(0)]
        while others and sum(_width(grid, column) for column in (*taken, others[0])) <= room:
            taken.append(others.pop(0))
        yield _only(grid, [*names, *taken].__contains__)


def _only(grid: Grid, is_wanted: Callable[[Column], bool]) -> Grid:
    places = [place for place, column in enumerate(grid.columns) if is_wanted(column)]
    rows = tuple(tuple(row[place] for place in places) for row in grid.rows)
    return Grid(tuple(grid.columns[place] for place in places), rows)


def _width(grid: Grid, column: Column) -> int:
    return _least(_texts(grid)[grid.columns.index(column)]) + _BORDER


def _texts(grid: Grid) -> list[list[str]]:
    """By column: its heading and its cells, as they are shown."""
    return [
        [_broken(column.heading), *(_marked(row[place]) for row in grid.rows)]
        for place, column in enumerate(grid.columns)
    ]


def _least(texts: Sequence[str]) -> int:
    """The longest word of a column: lines are broken between words alone, but for names that are longer than any."""
    return min(max(len(word) for text in texts for word in text.split()), _LONGEST_NAME)


def _most(texts: Sequence[str]) -> int:
    return max(len(line) for text in texts for line in text.split("\n"))


def _widths(grid: Grid, width: int) -> list[int]:
    """What each column gets: its longest word, and of what is left so much as it can use, from the left."""
    texts = _texts(grid)
    widths = [_least(column) for column in texts]
    spare = width - 1 - sum(widths) - _BORDER * len(widths)
    for place, column in enumerate(texts):
        grown = max(0, min(spare, _most(column) - widths[place]))
        widths[place] += grown
        spare -= grown
    return widths


def _broken(heading: str) -> str:
    """A metric's name in lines, broken behind its slashes and underscores."""
    lines = [""]
    for part in re.findall(r"[^/_]*[/_]?", heading):
        if lines[-1] and len(lines[-1]) + len(part) > _LONGEST_HEADING:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _rich(grid: Grid, title: str, width: int) -> RichTable:
    shown = RichTable(title=title or None, title_justify="left")
    for column, own in zip(grid.columns, _widths(grid, width), strict=True):
        shown.add_column(_broken(column.heading), justify=column.align, width=own, overflow="fold")
    for row in grid.rows:
        shown.add_row(*(Text(_marked(cell), style=_style(cell)) for cell in row))
    return shown


def _marked(cell: Cell) -> str:
    return cell.text + ("" if cell.standing is None else MARKS[cell.standing].strip())


def _style(cell: Cell) -> str:
    return {"best": "bold green", "worse": "dim"}.get(cell.standing or "", "")
