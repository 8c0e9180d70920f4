"""Readers of data files: JSON, JSON lines, CSV, TSV, Parquet and parallel text.

In: a path. Out: `FileRow`s in the order of the file. Every error names the file and the line. The readers of `datasets`
are not used, as they read a cell with "NA" or "null" as an empty one, and name neither file nor line.

Files are UTF-8, with or without a byte order mark; lines end in LF or CRLF.
"""

import csv
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ptl_prefix.artifacts.lfs_pointer import lfs_pointer_fact
from ptl_prefix.errors import DataError


@dataclass(frozen=True)
class FileRow:
    """One row of a user's data file.

    Args:
        place: File and line of the row, for messages: `/data/train.csv, line 7`.
        cells: Values by column name.
    """

    place: str
    cells: dict[str, Any]

    def text(self, column: str) -> str:
        """The text of a column; a list of texts, such as sentences, is joined with spaces.

        Raises:
            DataError: The column is missing, or holds no text.
        """
        return " ".join(self.texts(column))

    def texts(self, column: str) -> list[str]:
        """The texts of a column, stripped; empty texts of a list are left out.

        Raises:
            DataError: The column is missing, or holds no text.
        """
        if column not in self.cells:
            columns = ", ".join(self.cells)
            raise DataError(
                f"{self.place}: each row must have the column '{column}', but this one has {columns}; "
                "name one of these, or add the column."
            )
        cell = self.cells[column]
        texts = cell if isinstance(cell, list) else [cell]
        are_texts = all(isinstance(text, str) and _is_unicode(text) for text in texts)
        if are_texts and (stripped := [text.strip() for text in texts if text.strip()]):
            return stripped
        raise DataError(
            f"{self.place}: '{column}' must be text, or a list of texts, and not empty, but is {_shortened(cell)}; "
            "correct the row, or remove it."
        )


def read_rows(path: Path) -> Iterator[FileRow]:
    """The rows of a file, in its order.

    Raises:
        DataError: The file is missing, malformed or of an unknown format; the message names file and line.
    """
    if (mistake := why_unreadable(path)) is not None:
        raise DataError(mistake)
    return _READERS[path.suffix.lower()](path)


def why_unreadable(path: Path) -> str | None:
    """The reason why a file cannot be read, or `None`. Only its name, its existence and its first bytes are checked."""
    if path.suffix.lower() not in SUFFIXES:
        return f"{path} must end in one of {', '.join(SUFFIXES)}, which names its format; convert or rename it."
    return next(filter(None, map(_absence, _parts(path))), None)


def fingerprint_file(path: Path) -> str:
    """The hash of a file's content; for parallel text, the hashes of both files.

    Raises:
        DataError: The file is missing.
    """
    digests = []
    for part in _parts(path):
        if (mistake := _absence(part)) is not None:
            raise DataError(mistake)
        with part.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return " ".join(digests)


def _parts(path: Path) -> list[Path]:
    """The files that are read together: `x.source` needs `x.target`."""
    return [path, path.with_suffix(".target")] if path.suffix.lower() == ".source" else [path]


def _absence(path: Path) -> str | None:
    if path.is_file():
        pointer = lfs_pointer_fact(path)
        return None if pointer is None else f"{path} {pointer}."
    return f"{path} must be a file, but {'is a folder' if path.is_dir() else 'does not exist'}; correct the path."


def _read_csv(path: Path) -> Iterator[FileRow]:
    return _read_delimited(path, delimiter=",")


def _read_tsv(path: Path) -> Iterator[FileRow]:
    return _read_delimited(path, delimiter="\t")


def _read_delimited(path: Path, delimiter: str) -> Iterator[FileRow]:
    """Rows of a file whose first line names the columns; a quoted cell may hold line ends."""
    reader = csv.reader((line for _, line in _lines(path)), delimiter=delimiter, strict=True)
    columns: list[str] = []
    while True:
        first_line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DataError(
                f"{path}, line {first_line}: each row must be well-formed, but {error}; correct it."
            ) from error
        if cells is None:
            break
        if not cells:
            continue
        place = f"{path}, line {first_line}"
        if not columns:
            columns = _column_names(cells, place)
        elif len(cells) != len(columns):
            raise DataError(
                f"{place}: each row must have the {len(columns)} columns that the first line names, "
                f"but this one has {len(cells)}; quote a cell that holds a separator."
            )
        else:
            yield FileRow(place, dict(zip(columns, cells, strict=True)))


def _column_names(cells: list[str], place: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    if len(set(names)) != len(names):
        raise DataError(f"{place}: column names must differ, but are {', '.join(names)}; rename one.")
    return names


def _read_json_lines(path: Path) -> Iterator[FileRow]:
    """Rows of a file with one JSON object a line."""
    for number, line in _lines(path):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            cells = json.loads(line)
        except ValueError as error:
            raise DataError(f"{place}: each line must be one JSON object, but {error}; correct it.") from error
        if not isinstance(cells, dict):
            raise DataError(f"{place}: each line must be one JSON object, but is {_shortened(cells)}; correct it.")
        yield FileRow(place, cells)


def _read_json(path: Path) -> Iterator[FileRow]:
    """Rows of a file that is one JSON array of objects, or one object that holds such an array and nothing else."""
    try:
        content = json.loads("".join(line for _, line in _lines(path)))
    except ValueError as error:
        raise DataError(f"{path} must be JSON, but {error}; correct it, or name it .jsonl if its lines are.") from error
    if isinstance(content, dict) and len(content) == 1:
        (content,) = content.values()
    if not isinstance(content, list):
        raise DataError(f"{path} must be one array of JSON objects, but is {_shortened(content)}; convert it.")
    for number, cells in enumerate(content, start=1):
        place = f"{path}, row {number}"
        if not isinstance(cells, dict):
            raise DataError(f"{place}: each row must be a JSON object, but is {_shortened(cells)}; correct it.")
        yield FileRow(place, cells)


def _read_parallel(path: Path) -> Iterator[FileRow]:
    """Rows of `x.source` and `x.target`: one for each pair of lines with the same number."""
    source, target = _parts(path)
    for number, (left, right) in enumerate(itertools.zip_longest(_lines(source), _lines(target)), start=1):
        if left is None or right is None:
            shorter, longer = (source, target) if left is None else (target, source)
            raise DataError(
                f"{longer}, line {number}: {source.name} and {target.name} must have equally many lines, but "
                f"{shorter.name} ends before this line; correct them."
            )
        yield FileRow(f"{source}, line {number}", {"source": left[1].strip(), "target": right[1].strip()})


def _read_parquet(path: Path) -> Iterator[FileRow]:
    """Rows of a Parquet file; as it has no lines, messages count its rows from 1."""
    number = 0
    try:
        for batch in pq.ParquetFile(path).iter_batches():
            for cells in batch.to_pylist():
                number += 1
                yield FileRow(f"{path}, row {number}", cells)
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{path} must be a Parquet file, but cannot be read as one ({error}); write it again."
        ) from error


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines, split at LF only: text may hold other characters that Python treats as line ends."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path}, line {number}: a file must be UTF-8, but byte {line[error.start]:#04x} is not "
                    "(is it UTF-16 or Latin-1?); convert it."
                ) from error


def _is_unicode(text: str) -> bool:
    """Whether a UTF-8 file can hold the text: JSON escapes can spell lone surrogates, which it cannot."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


_READERS: dict[str, Callable[[Path], Iterator[FileRow]]] = {
    ".jsonl": _read_json_lines,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
    ".source": _read_parallel,
}
SUFFIXES = tuple(_READERS)
"""Suffixes of the files that can be read."""
