"""The layout of a run folder, its lock, and the legal names of runs.

In: the path of a run's folder. Out: the paths of the files in it. Other modules read and write those files.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from ptl_prefix.artifacts.atomic import storage_errors
from ptl_prefix.artifacts.file_lock import FileLock
from ptl_prefix.errors import RunError

NAME_PATTERN = re.compile(r"[A-Za-z0-9._-]+")
"""The legal names of tasks, backbones, methods and runs: each is the name of a folder."""

CONFIRM = "confirm"
"""The folder of a study with the runs that confirm its best settings on further seeds."""

_LONGEST_LABEL = 64
_PATIENCE_S = 0.2
"""Seconds to wait for the lock: `is_held` in another process holds it for a moment, too."""


def is_name(text: str) -> bool:
    """Whether `text` may name a folder of `outputs/`; `.` and `..` may not, though they match the pattern."""
    return NAME_PATTERN.fullmatch(text) is not None and text.strip(".") != ""


def as_name(text: str) -> str:
    """Make a legal name from the last part of a hub name or a path: `openai-community/gpt2` becomes `gpt2`."""
    last = re.split(r"[/\\]", text.rstrip("/\\"))[-1]
    label = re.sub(r"[^A-Za-z0-9._-]+", "-", last)[:_LONGEST_LABEL].strip("-.")
    return label or "unnamed"


class RunFolder:
    """A run folder: `outputs/<task>/<backbone>/<method>/<run_id>/`, or any other path.

    Args:
        path: Path of the folder, which need not exist yet.
        shown: What messages call the folder, such as the address that it was fetched from; `None` is its path.
    """

    def __init__(self, path: str | Path, shown: str | None = None) -> None:
        self.path = Path(path)
        self.shown = str(self.path) if shown is None else shown

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open the folder of an existing run.

        Raises:
            RunError: There is no run at `path`.
        """
        folder = cls(path)
        if folder.config.is_file():
            return folder
        fact = f"has no {folder.config.name}" if folder.path.is_dir() else "is not a folder"
        whole = next((parent for parent in folder.path.parents if cls(parent).config.is_file()), None)
        way_out = f"did you mean {whole}?" if whole else "give the path that `ptl-prefix train` printed."
        raise RunError(f"A run must be a folder with a {folder.config.name}, but {path} {fact}; {way_out}")

    @property
    def place(self) -> Path | str:
        """The path; of a folder that was fetched the address, which no path can hold."""
        return self.path if self.shown == str(self.path) else self.shown

    @property
    def record(self) -> Path:
        """The record, written at the end of the run; see `run_record.py`."""
        return self.path / "record.json"

    @property
    def config(self) -> Path:
        """The resolved config, written first: it marks the folder as a run's."""
        return self.path / "config.yaml"

    @property
    def events(self) -> Path:
        """The event log; see `event_log.py`."""
        return self.path / "events.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints, from which training can be resumed."""
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """The checkpoint with the lowest `val/loss`, or the best metric of `training.select_by`."""
        return self.checkpoints / "best.ckpt"

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.checkpoints / "last.ckpt"

    def kept(self, step: int) -> Path:
        """The older checkpoint of a step, which `training.keep_last` keeps."""
        return self.checkpoints / f"step-{step}.ckpt"

    def kept_steps(self) -> list[int]:
        """The steps of the older checkpoints that are there, in order."""
        names = (path.name for path in self.checkpoints.glob("step-*.ckpt"))
        return sorted(int(match[1]) for name in names if (match := re.fullmatch(r"step-(\d+)\.ckpt", name)))

    @property
    def bundle(self) -> Path:
        """The exported adaptation; see `bundle.py`."""
        return self.path / "bundle"

    @property
    def model(self) -> Path:
        """The trained backbone in the format of transformers, for methods that train all of it."""
        return self.path / "model"

    @property
    def evaluation(self) -> Path:
        """The evaluations, a folder for each; see `evaluation_record.py`."""
        return self.path / "evaluation"

    @property
    def lock(self) -> Path:
        """An empty file, locked by the process that is working in the folder."""
        return self.path / ".lock"

    @property
    def reserve(self) -> Path:
        """Space for the record of a run that fails because the disk is full; it is there while the run works."""
        return self.path / ".reserve"

    def require_in_place(self) -> None:
        """Require that the folder of a working run still has its config and its log.

        Raises:
            RunError: If the folder or one of the two is gone; the message names it.
        """
        for path in (self.path, self.config, self.events):
            if not path.exists():
                raise RunError(
                    f"The files of a run must stay where they are until it ends, but {path} is gone; "
                    "restore the run folder and resume the run, or repeat it."
                )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Lock the folder, so that no other process writes here. The lock of a process that dies is released.

        Raises:
            RunError: Another process is working in the folder.
            StorageError: The disk does not take the folder.
        """
        with storage_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        busy = RunError(
            f"A run folder must have one process at a time, but another process is working in {self.path}; "
            "wait for it, or stop it."
        )
        # The lock is on a file: the folder itself is locked, for a moment, by every atomic write of a file in it.
        with FileLock(self.lock, timeout_s=_PATIENCE_S, busy=busy, required=False):
            yield

    def is_held(self) -> bool:
        """Whether a process is working in the folder. Nothing on disk is made or changed."""
        return FileLock(self.lock).is_held()

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"
