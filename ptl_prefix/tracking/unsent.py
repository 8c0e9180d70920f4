"""W&B runs that lie on disk and that the server does not have, or not whole: begun offline, or cut off.

In: folders. Out: what would be sent; and, when asked, W&B's own `sync`, as a process, as it is no library. A run
that is at work now is left alone.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.tracking.wandb_sink import SENT_SUFFIX

_SYNC_TIMEOUT_S = 3600.0


@dataclass(frozen=True)
class UnsentRun:
    """One of W&B's files, of which a run has several if it was resumed.

    Args:
        file: The file.
        folder: The run that it tells of.
        is_at_work: Whether a process is still writing it.
    """

    file: Path
    folder: RunFolder
    is_at_work: bool

    @property
    def num_bytes(self) -> int:
        """What would be sent: the file, tables and the bundle, not W&B's own logs."""
        media = sum(path.stat().st_size for path in self.file.parent.glob("files/**/*") if path.is_file())
        bundle = sum(path.stat().st_size for path in self.folder.bundle.glob("*") if path.is_file())
        return self.file.stat().st_size + media + bundle


def unsent_runs(folders: Iterable[Path]) -> list[UnsentRun]:
    """What lies in the folders, at any depth, and was not sent; the oldest first."""
    found = {
        file.resolve(): UnsentRun(file, folder, folder.is_held())
        for start in folders
        for file in start.rglob("wandb/*run-*/run-*.wandb")
        if not file.parent.is_symlink() and not file.with_name(file.name + SENT_SUFFIX).exists()
        for folder in [RunFolder(file.parents[2])]
    }
    return sorted(found.values(), key=lambda run: run.file.parent.name.partition("run-")[2])


def send(runs: Sequence[UnsentRun]) -> list[UnsentRun]:
    """Send them, and mark what arrived.

    Returns:
        Those that did not arrive.
    """
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_MODE"}
    # Runs begun online and cut off count, too; a resumed run's parts go in the order in which they began.
    command = [sys.executable, "-m", "wandb", "sync", "--include-online", *(str(run.file.parent) for run in runs)]
    # It leaves a log of its own, which is nothing for the working directory.
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            command,
            env={**environment, "WANDB_ERROR_REPORTING": "false", "WANDB_DIR": folder},
            stdin=subprocess.DEVNULL,
            timeout=_SYNC_TIMEOUT_S,
            check=False,
        )
    return [run for run in runs if not run.file.with_name(run.file.name + SENT_SUFFIX).exists()]
