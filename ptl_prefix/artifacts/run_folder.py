"""Where a run keeps its things, and how runs may be named.

In: the path of a run's folder. Out: the paths inside it. What lies there is the business of its owner.
"""

import fcntl
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Self

from ptl_prefix.errors import RunError

NAME_PATTERN = re.compile(r"[A-Za-z0-9._-]+")
"""What a task, backbone, method or run may be called: each is the name of a folder."""

CONFIRM = "confirm"
"""The folder in a study with the runs that confirm, on further seeds, what its search has found."""

_LONGEST_LABEL = 64
_PATIENCE_S = 0.2
"""How long a lock may be taken by somebody who only looks whether it is."""


def is_name(text: str) -> bool:
    """Whether `text` may name a folder of `outputs/`. `.` and `..` fit the pattern, but lead elsewhere."""
    return NAME_PATTERN.fullmatch(text) is not None and text.strip(".") != ""


def as_name(text: str) -> str:
    """A legal name for a hub name or a path, from its last part: `openai-community/gpt2` becomes `gpt2`."""
    last = re.split(r"[/\\]", text.rstrip("/\\"))[-1]
    label = re.sub(r"[^A-Za-z0-9._-]+", "-", last)[:_LONGEST_LABEL].strip("-.")
    return label or "unnamed"


class RunFolder:
    """One run's folder, `outputs/<task>/<backbone>/<method>/<run_id>/` or wherever the user put it.

    Args:
        path: The folder; it need not exist yet.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """The folder of a run that has begun.

        Raises:
            RunError: If there is no run at `path`.
        """
        folder = cls(path)
        if folder.config.is_file():
            return folder
        fact = f"has no {folder.config.name}" if folder.path.is_dir() else "is no folder"
        whole = next((parent for parent in folder.path.parents if cls(parent).config.is_file()), None)
        way_out = f"did you mean {whole}?" if whole else "give the path that `ptl-prefix train` printed."
        raise RunError(f"A run must be a folder with the config it was started with, but {path} {fact}; {way_out}")

    @property
    def record(self) -> Path:
        """What the run says of itself, written at its end; see `run_record.py`."""
        return self.path / "record.json"

    @property
    def config(self) -> Path:
        """The resolved config. It is written before anything else, and makes the folder a run folder."""
        return self.path / "config.yaml"

    @property
    def events(self) -> Path:
        """What was logged, line by line; see `event_log.py`."""
        return self.path / "events.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Where training can go on from."""
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """The checkpoint with the least `val/loss`."""
        return self.checkpoints / "best.ckpt"

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.checkpoints / "last.ckpt"

    @property
    def bundle(self) -> Path:
        """The exported adaptation; see `bundle.py`."""
        return self.path / "bundle"

    @property
    def model(self) -> Path:
        """The trained backbone as transformers keeps models, where all of it was trained."""
        return self.path / "model"

    @property
    def evaluation(self) -> Path:
        """What was decoded, a folder for each way; see `evaluation_record.py`."""
        return self.path / "evaluation"

    @property
    def lock(self) -> Path:
        """An empty file, locked by the process that is at work in the folder."""
        return self.path / ".lock"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep every other process from writing here; a process that dies, however it does, lets go.

        Raises:
            RunError: When another process is at work in the folder.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        # A file of its own: the folder itself is locked by whoever writes a file in it, for a moment.
        with self.lock.open("w") as lock:
            if not _lock(lock, fcntl.LOCK_EX, patience_s=_PATIENCE_S):
                raise RunError(
                    f"A run is the work of one process at a time, but another is at work in {self.path}; "
                    "wait for it, or stop it."
                )
            yield

    def is_held(self) -> bool:
        """Whether a process is at work in the folder; nothing is made or changed by asking."""
        try:
            with self.lock.open("r") as lock:
                return not _lock(lock, fcntl.LOCK_SH, patience_s=0.0)
        except OSError:  # nobody ever held it, or we may not look
            return False

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"


def _lock(file: IO[str], how: int, *, patience_s: float) -> bool:
    """Lock an open file until it is closed; False when another process has it for longer than one's patience."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(file, how | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        except OSError:  # a network file system without locks: then nobody is kept out
            return True
