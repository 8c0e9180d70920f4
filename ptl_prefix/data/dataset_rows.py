"""Rows of data sets of the `datasets` library, among them folders that `save_to_disk` wrote.

In: a data set, or a folder. Out: for each row, its place for messages, and its cells by column name; class labels are
read as names, not as numbers. The rows of a folder are memory-mapped and read one at a time.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ptl_prefix.artifacts.json_document import DocumentError, parse_object
from ptl_prefix.data.text_lines import OnRead, TextFormat
from ptl_prefix.errors import DataError

if TYPE_CHECKING:
    import datasets

_STATE = "state.json"
_INFO = "dataset_info.json"
_SPLITS = "dataset_dict.json"
_REPORTED_ROWS = 1000


def is_dataset_folder(path: Path) -> bool:
    """Whether `Dataset.save_to_disk` wrote a folder."""
    return (path / _STATE).is_file()


def split_folders(path: Path) -> dict[str, Path]:
    """The folder of each split, if `DatasetDict.save_to_disk` wrote a folder; empty for anything else."""
    names = _listed(path / _SPLITS, "splits") if (path / _SPLITS).is_file() else []
    return {name: path / name for name in names if isinstance(name, str)}


def dataset_files(path: Path) -> list[Path]:
    """The files with the content of a `Dataset`'s folder, in reading order: its features, and its Arrow files."""
    files = [file.get("filename") for file in _listed(path / _STATE, "_data_files") if isinstance(file, dict)]
    return [path / _INFO, *(path / file for file in files if isinstance(file, str))]


def read_dataset_folder(path: Path, text_format: TextFormat, on_read: OnRead) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a folder that `Dataset.save_to_disk` wrote.

    Raises:
        DataError: The folder cannot be loaded.
    """
    import datasets

    try:
        # A data set that was saved with a format, such as that of PyTorch, would give tensors.
        rows = datasets.load_from_disk(str(path)).with_format(None)
    except (OSError, ValueError, TypeError, KeyError, pa.ArrowException) as error:
        raise DataError(
            f"{path} must be a folder of `Dataset.save_to_disk`, but cannot be loaded ({error}); save it again."
        ) from error
    num_bytes = sum(file.stat().st_size for file in dataset_files(path))
    for number, row in enumerate(named_rows(rows, str(path))):
        if number % _REPORTED_ROWS == 0:
            on_read(num_bytes * min(_REPORTED_ROWS, len(rows) - number) // len(rows))
        yield row


def named_rows(rows: "datasets.Dataset", name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a data set.

    Args:
        rows: Data set.
        name: Name of the data set in the places of rows.
    """
    import datasets

    labels = {column: kind for column, kind in rows.features.items() if isinstance(kind, datasets.ClassLabel)}
    for number, cells in enumerate(rows, start=1):
        # -1 is the library's label of rows without one.
        names = {
            column: None if cells[column] in (None, -1) else kind.int2str(cells[column])
            for column, kind in labels.items()
        }
        yield f"{name}, row {number}", {**cells, **names}


def _listed(path: Path, key: str) -> list[Any]:
    """The list under a key of a JSON file."""
    try:
        value = parse_object(path.read_text(encoding="utf-8")).get(key)
    except (OSError, UnicodeError, DocumentError) as error:
        raise DataError(f"{path} must be a JSON object, but {error}; save the data set again.") from error
    if not isinstance(value, list):
        raise DataError(f"{path} must hold a list `{key}`, but has none; save the data set again.")
    return value
