"""Data sets by hub name: the only place of this room that may reach for the network, and only when a task is told to.

In: a name on the hub. Out: `FileRow`s; a class is read as its name, not as its number. A data set that is a script is
refused by the library; give the revision with its copy as Parquet, `refs/convert/parquet`. The library's own switches
hold: with HF_HUB_OFFLINE=1 only what was downloaded before is found.
"""

import contextlib
from collections.abc import Iterator

import datasets

from ptl_prefix.data.file_rows import FileRow
from ptl_prefix.errors import DataError


def read_hub_records(hub: str, *, config: str | None, revision: str | None, split: str) -> Iterator[FileRow]:
    """The records of one split of a data set on the hub.

    Raises:
        DataError: It cannot be reached, or has no such config, revision or split.
    """
    try:
        with _no_progress_bars():
            rows = datasets.load_dataset(hub, config, split=split, revision=revision)
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"The {split} split of '{hub}' must be reachable on the hub or downloaded before, but is not ({error}); "
            "give local files instead."
        ) from error
    labels = {name: kind for name, kind in rows.features.items() if isinstance(kind, datasets.ClassLabel)}
    for number, cells in enumerate(rows, start=1):
        names = {column: kind.int2str(cells[column]) for column, kind in labels.items()}
        yield FileRow(f"{hub} ({split}), record {number}", {**cells, **names})


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Keep `datasets` from drawing over the project's own progress bar."""
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
