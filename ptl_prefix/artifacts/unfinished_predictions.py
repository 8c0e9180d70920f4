"""The predictions of an evaluation that is not finished, from which it can be resumed.

In: batches of predictions. Out: a file that grows by one batch at a time, and its content for the next process. One
process at a time uses the file, which is removed when the evaluation is finished.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from ptl_prefix.artifacts.atomic import place_errors, storage_errors, write_all
from ptl_prefix.artifacts.file_lock import lock_file, open_unlinked
from ptl_prefix.artifacts.predictions import Prediction, read_predictions, to_line
from ptl_prefix.errors import RunError


class UnfinishedPredictions:
    """The file of an unfinished evaluation.

    Args:
        path: Path of the file, which is created if it is missing.

    Raises:
        RunError: Another process is using the file, or it is a symbolic link.
        StorageError: The disk does not take the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with place_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.fdopen(open_unlinked(path, os.O_RDWR | os.O_CREAT | os.O_APPEND), "a+b")
        try:
            is_locked = lock_file(self._file, timeout_s=0.0)
        except OSError:  # a file system without locks
            is_locked = False
        if not is_locked:
            self._file.close()
            raise RunError(
                f"An evaluation must have one process at a time, but another process is writing {path}; wait for it."
            )

    def read(self) -> list[Prediction]:
        """Read the predictions of earlier processes; an incomplete last line is removed.

        Raises:
            DataError: A line is not a prediction.
        """
        self._file.seek(0)
        content = self._file.read()
        whole = content.rfind(b"\n") + 1
        if whole != len(content):
            os.ftruncate(self._file.fileno(), whole)
        return read_predictions(self.path) if whole else []

    def add(self, predictions: Iterable[Prediction]) -> None:
        """Append predictions, without a buffer that could be written late.

        Raises:
            StorageError: If the disk does not take them; those of earlier calls are kept.
        """
        content = "".join(f"{to_line(prediction)}\n" for prediction in predictions).encode()
        with storage_errors(self.path, len(content)):
            write_all(self._file.fileno(), content)

    def remove(self) -> None:
        """Remove the file, once the finished predictions are written elsewhere."""
        self.path.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
