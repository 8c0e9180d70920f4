"""Data sets from the Hugging Face hub. No other file of `data` uses the network.

In: a name on the hub. Out: `FileRow`s; class labels are read as names, not as numbers. The `datasets` library refuses
data sets that are scripts: use the revision with their Parquet copy, `refs/convert/parquet`. The library's environment
variables apply: with HF_HUB_OFFLINE=1 only downloaded data sets are found.
"""

import contextlib
import itertools
from collections.abc import Iterator

from ptl_prefix.data.dataset_rows import named_rows
from ptl_prefix.data.file_rows import FileRow
from ptl_prefix.errors import DataError


def read_hub_rows(hub: str, *, config: str | None, revision: str | None, split: str) -> Iterator[FileRow]:
    """The rows of one split of a data set on the hub.

    Raises:
        DataError: The data set cannot be reached, or has no such config, revision or split.
    """
    import datasets

    try:
        with _no_progress_bars():
            rows = datasets.load_dataset(hub, config, split=split, revision=revision)
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"The {split} split of '{hub}' must be reachable on the hub or downloaded before, but is not ({error}); "
            "give local files instead."
        ) from error
    yield from itertools.starmap(FileRow, named_rows(rows, f"{hub} ({split})"))


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Turn off the progress bars of `datasets`, which would overwrite this project's own."""
    import datasets

    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
