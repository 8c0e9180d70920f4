"""Readers of data files: JSON, JSON lines, CSV, TSV, Parquet, parallel text, and folders of `datasets`.

In: a path. Out: `FileRow`s in the order of the file, one at a time. Every error names the file and the line. The
readers of `datasets` are not used, as they read a cell with "NA" or "null" as an empty one, and name neither file nor
line.

Files of text are UTF-8, or of the encoding that a byte order mark or `task.encoding` names; lines end in LF or CRLF.
They may be compressed, as `.jsonl.gz` or `.csv.zst`.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from ptl_prefix.artifacts.json_document import shortened
from ptl_prefix.artifacts.lfs_pointer import lfs_pointer_fact
from ptl_prefix.artifacts.source_template import cell_texts
from ptl_prefix.data.dataset_rows import dataset_files, is_dataset_folder, read_dataset_folder, split_folders
from ptl_prefix.data.delimited_rows import read_csv, read_tsv
from ptl_prefix.data.json_rows import read_json, read_json_lines
from ptl_prefix.data.text_lines import COMPRESSIONS, OnRead, TextFormat, numbered_lines, unreported
from ptl_prefix.errors import DataError

_AS_IT_SAYS = TextFormat()
_PARQUET_ROWS = 1000
"""Rows of a Parquet file that are in memory as Python objects at once."""
Setting = Literal["source_column", "target_columns", "label_column", "prompt_template"]
"""A setting that names columns."""


@dataclass(frozen=True)
class FileRow:
    """One row of a user's data file.

    Args:
        place: File and line of the row, for messages: `/data/train.csv, line 7`.
        cells: Values by column name.
    """

    place: str
    cells: dict[str, Any]

    def text(self, column: str, setting: Setting | None = None) -> str:
        """The text of a column; a list of texts, such as sentences, is joined with spaces.

        Args:
            column: Name of the column.
            setting: Setting of the task that chose the column; `None`: the task itself did.

        Raises:
            DataError: The column is missing, or holds no text.
        """
        return " ".join(self.texts(column, setting))

    def texts(self, column: str, setting: Setting | None = None) -> list[str]:
        """The texts of a column, stripped; empty texts of a list are left out. See `text` and `cell_texts`."""
        if column not in self.cells:
            raise DataError(self._absence(column, setting))
        cell = self.cells[column]
        if texts := cell_texts(cell):
            return texts
        raise DataError(
            f"{self.place}: '{column}' must be text, or a list of texts, and not empty, but is {shortened(cell)}; "
            "correct the row, or remove it."
        )

    def converted(self, column: str) -> bool:
        """Whether the column holds a number or a boolean, which `texts` turns into text."""
        cell = self.cells.get(column)
        return any(not isinstance(part, str) for part in (cell if isinstance(cell, list) else [cell]))

    def _absence(self, column: str, setting: Setting | None) -> str:
        """What to say of a column that is missing."""
        fact = f"{self.place}: each row must have the column '{column}', but this one has {_listed(self.cells)}"
        if setting is None:
            return f"{fact}; rename one of these, or add the column."
        if setting == "prompt_template":
            return f"{fact}; name one of these in `task.prompt_template`, and write literal braces as {{{{ and }}}}."
        form = "[<name>]" if setting == "target_columns" else "<name>"
        return (
            f"{fact}; choose one of these with `task.{setting}={form}`. If these are no names but the first row of "
            "the data, put a line with the names above it."
        )


def read_rows(path: Path, text_format: TextFormat = _AS_IT_SAYS, on_read: OnRead = unreported) -> Iterator[FileRow]:
    """The rows of a file, in its order, read one at a time.

    Args:
        path: File, whose suffix names its format, or folder of a `Dataset`.
        text_format: Encoding and separator of a file of text.
        on_read: Callback for progress; all calls together give `num_bytes`, or nearly.

    Raises:
        DataError: The file is missing, malformed or of an unknown format; the message names file and line.
    """
    if (mistake := why_unreadable(path)) is not None:
        raise DataError(mistake)
    reader = read_dataset_folder if is_dataset_folder(path) else _READERS[format_suffix(path)]
    return itertools.starmap(FileRow, reader(path, text_format, on_read))


def format_suffix(path: Path) -> str:
    """The suffix that names a file's format, in lower case: `.csv` of `pairs.csv` and of `pairs.csv.gz`."""
    compressed = path.with_suffix("").suffix.lower() if path.suffix.lower() in COMPRESSIONS else None
    # A Parquet file is compressed inside, and read from its end.
    return path.suffix.lower() if compressed in (None, "", ".parquet") else str(compressed)


def why_unreadable(path: Path) -> str | None:
    """The reason why a file cannot be read, or `None`. Only its name, its existence and its first bytes are checked."""
    try:
        if folders := split_folders(path):
            splits = ", ".join(map(str, folders.values()))
            return f"{path} must be one data set, but is a `DatasetDict`; give the folder of one split: {splits}."
        if is_dataset_folder(path):
            return next(filter(None, map(_absence, _parts(path))), None)
    except DataError as error:
        return str(error)
    if format_suffix(path) not in SUFFIXES:
        return (
            f"{path} must end in one of {', '.join(SUFFIXES)}, which names its format, or, compressed, in .gz or .zst "
            "after such a suffix of a text file; convert or rename it."
        )
    return next(filter(None, map(_absence, _parts(path))), None)


def num_bytes(path: Path) -> int:
    """The size of a file; for parallel text, of both files; for a folder of a `Dataset`, of its files."""
    return sum(part.stat().st_size for part in _parts(path) if part.is_file())


def fingerprint_file(path: Path) -> str:
    """The hash of a file's content; for parallel text and the folder of a `Dataset`, the hashes of all files.

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
    """The files that are read together: `x.source` needs `x.target`, also compressed; a folder holds several."""
    if is_dataset_folder(path):
        return dataset_files(path)
    if format_suffix(path) != ".source":
        return [path]
    compression = path.suffix if path.suffix.lower() in COMPRESSIONS else ""
    uncompressed = path.with_suffix("") if compression else path
    return [path, uncompressed.with_suffix(f".target{compression}")]


def _absence(path: Path) -> str | None:
    if path.is_file():
        pointer = lfs_pointer_fact(path)
        return None if pointer is None else f"{path} {pointer}."
    return f"{path} must be a file, but {'is a folder' if path.is_dir() else 'does not exist'}; correct the path."


def _read_parallel(path: Path, text_format: TextFormat, on_read: OnRead) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of `x.source` and `x.target`: one for each pair of lines with the same number."""
    source, target = _parts(path)
    lines = (numbered_lines(part, text_format, on_read) for part in (source, target))
    for number, (left, right) in enumerate(itertools.zip_longest(*lines), start=1):
        if left is None or right is None:
            shorter, longer = (source, target) if left is None else (target, source)
            raise DataError(
                f"{longer}, line {number}: {source.name} and {target.name} must have equally many lines, but "
                f"{shorter.name} ends before this line; correct them."
            )
        yield f"{source}, line {number}", {"source": left[1].strip(), "target": right[1].strip()}


def _read_parquet(path: Path, text_format: TextFormat, on_read: OnRead) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a Parquet file; as it has no lines, messages count its rows from 1."""
    number = 0
    try:
        file = pq.ParquetFile(path)
        for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
            on_read(path.stat().st_size * len(batch) // file.metadata.num_rows)
            for cells in batch.to_pylist():
                number += 1
                yield f"{path}, row {number}", cells
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{path} must be a Parquet file, but cannot be read as one ({error}); write it again."
        ) from error


def _listed(names: Iterable[str]) -> str:
    """Names of columns; the cells of a file without such names may be long texts."""
    shown = [name if len(name) <= 40 else f"{name[:37]}..." for name in itertools.islice(names, 12)]
    return ", ".join(shown) or "none"


_READERS: dict[str, Callable[[Path, TextFormat, OnRead], Iterator[tuple[str, dict[str, Any]]]]] = {
    ".jsonl": read_json_lines,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".parquet": _read_parquet,
    ".source": _read_parallel,
}
SUFFIXES = tuple(_READERS)
"""Suffixes of the files that can be read."""
