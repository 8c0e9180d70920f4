"""Rows of CSV and TSV files, whose first line names the columns.

In: numbered lines. Out: for each row, its place for messages, and its cells by column name.

CSV: cells may be quoted, and then hold separators and line ends. The separator is a comma, unless the file begins with
Excel's `sep=;`, or its first line has no comma but semicolons, tabs or vertical bars.

TSV: a line is a row and a tab ends a cell, whatever quotation marks there are, as texts may begin with one. Some
programs quote cells of TSV files, too: a cell is unquoted if quotation marks are doubled inside it; and if all names
in the first line are quoted, the file is read as CSV.
"""

import csv
import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ptl_prefix.data.text_lines import OnRead, TextFormat, numbered_lines, unreported
from ptl_prefix.errors import DataError

# Python's own limit of 131,072 characters is below the length of real documents. There must be one: a quotation mark
# that nothing closes would collect the rest of the file into one cell.
_MAX_CELL = 2**24
csv.field_size_limit(_MAX_CELL)

_OTHER_SEPARATORS = (";", "\t", "|")
_SEPARATOR_HINT = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)

Row = tuple[str, dict[str, Any]]
"""The place of a row, and its cells by column name."""
_Cells = Iterator[tuple[int, list[str]]]
"""The number of each row's first line, and its cells."""


def read_csv(path: Path, text_format: TextFormat, on_read: OnRead = unreported) -> Iterator[Row]:
    """The rows of a CSV file.

    Raises:
        DataError: A row is malformed; the message names its first line.
    """
    lines = numbered_lines(path, text_format, on_read)
    first = next(lines, (1, ""))
    hint = _SEPARATOR_HINT.fullmatch(first[1])
    rest = lines if hint else itertools.chain([first], lines)
    separator = text_format.separator or (hint[1] if hint else _find_separator(first[1]))
    cells = _quoted_cells(path, rest, separator, num_above=1 if hint else 0)
    return _named(path, cells, f"quote a cell that holds a separator{text_format.separator_advice}")


def read_tsv(path: Path, text_format: TextFormat, on_read: OnRead = unreported) -> Iterator[Row]:
    """The rows of a TSV file.

    Raises:
        DataError: A row is malformed; the message names its first line.
    """
    if text_format.separator not in (None, "\t"):
        return read_csv(path, text_format, on_read)
    lines = numbered_lines(path, text_format, on_read)
    first = next(lines, (1, ""))
    rest = itertools.chain([first], lines)
    if all(re.fullmatch('"[^"]+"', cell) for cell in _split(first[1])):
        return _named(path, _quoted_cells(path, rest, "\t"), "quote a cell that holds a tab")
    cells = ((number, [_unquoted(cell) for cell in _split(line)]) for number, line in rest if line.strip("\r\n"))
    return _named(path, cells, "a cell of a .tsv file holds no tab and no line end: write such texts as .jsonl or .csv")


def _find_separator(first_line: str) -> str:
    """The separator of a CSV file: a comma, unless only another one divides the first line."""

    def num_columns(separator: str) -> int:
        try:
            return len(next(csv.reader([first_line], delimiter=separator), []))
        except csv.Error:  # the same error is explained when the rows are read
            return 0

    best = max(_OTHER_SEPARATORS, key=num_columns)
    return best if num_columns(",") < 2 <= num_columns(best) else ","


def _quoted_cells(path: Path, lines: Iterable[tuple[int, str]], separator: str, *, num_above: int = 0) -> _Cells:
    """The cells of rows that may span several lines; `num_above` lines of the file come before `lines`."""
    reader = csv.reader((line for _, line in lines), delimiter=separator, strict=True)
    while True:
        number = num_above + reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            fact, advice = (
                str(error),
                ("a quotation mark that begins a cell must also end it, and one inside such a cell must be doubled"),
            )
            if "new-line character" in fact:
                fact, advice = "a lone CR is no end of a line", "end each line with LF or CRLF, or quote the cell"
            raise DataError(
                f"{path}, line {number}: each row must be well-formed, but {fact}; correct it: {advice}."
            ) from error
        if cells is None:
            return
        if cells:
            yield number, cells


def _named(path: Path, rows: _Cells, advice: str) -> Iterator[Row]:
    """The cells by the names in the first row."""
    columns: list[str] = []
    for number, cells in rows:
        place = f"{path}, line {number}"
        if not columns:
            columns = _column_names(cells, place)
        elif len(cells) != len(columns):
            raise DataError(
                f"{place}: each row must have the {len(columns)} columns that the first line names, "
                f"but this one has {len(cells)}; {advice}."
            )
        else:
            yield place, dict(zip(columns, cells, strict=True))


def _column_names(cells: list[str], place: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    if len(set(names)) != len(names):
        raise DataError(f"{place}: column names must differ, but are {', '.join(names)}; rename one.")
    return names


def _split(line: str) -> list[str]:
    return line.rstrip("\r\n").split("\t")


def _unquoted(cell: str) -> str:
    """A cell as it was before a program quoted it for the quotation marks inside; any other cell is unchanged."""
    inner = cell[1:-1]
    is_quoted = len(cell) > 3 and cell[0] == cell[-1] == '"' and '""' in inner and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if is_quoted else cell
