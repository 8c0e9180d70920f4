"""Predictions while they are still being made, so that whoever is killed goes on where it was.

In: batches of predictions, as they come. Out: a file that only grows, a whole batch at a time; and, for the next
process, what it holds. It belongs to one process at a time, and is removed when the predictions are finished.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from ptl_prefix.artifacts.file_lock import lock_file
from ptl_prefix.artifacts.predictions import Prediction, read_predictions, to_line
from ptl_prefix.errors import RunError


class UnfinishedPredictions:
    """The file of one evaluation that is under way.

    Args:
        path: The file; made if there is none.

    Raises:
        RunError: Another process is at work on it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
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
        """What an earlier process wrote; a last line that it did not finish is cut off.

        Raises:
            DataError: A line is no prediction.
        """
        self._file.seek(0)
        content = self._file.read()
        whole = content.rfind(b"\n") + 1
        if whole != len(content):
            os.ftruncate(self._file.fileno(), whole)
        return read_predictions(self.path) if whole else []

    def add(self, predictions: Iterable[Prediction]) -> None:
        """Write some more, in one call, and have the system keep them."""
        self._file.write("".join(f"{to_line(prediction)}\n" for prediction in predictions).encode())
        self._file.flush()

    def remove(self) -> None:
        """They are finished, and lie elsewhere."""
        self.path.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
