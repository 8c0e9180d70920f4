"""Finds runs that W&B's server does not have completely, and uploads them: offline, killed or untracked runs.

In: folders. Out: the runs to upload; and, on request, their upload by `wandb sync`, which runs as a process because it
is not a library. `wandb sync` always uploads whole files. Therefore, if a file is incomplete or the server already has
a part of the run, the file is archived, and a new file with the missing part is written from the run's log. Running
runs are not touched.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptl_prefix.artifacts.event_log import read_events
from ptl_prefix.artifacts.run_config import read_config
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.errors import RunError
from ptl_prefix.tracking.replay import facts_for_replay, replay
from ptl_prefix.tracking.tracking import Tracking
from ptl_prefix.tracking.wandb_file import is_complete
from ptl_prefix.tracking.wandb_sink import SYNCED_SUFFIX, WandbSink, fetch_server_rows

_SYNC_TIMEOUT_S = 3600.0
_WRITE_TIMEOUT_S = 30.0
_ARCHIVE = "superseded"
_WANDB_SETTINGS = ("project", "entity", "group", "name", "job_type", "tags")


@dataclass(frozen=True)
class UnsyncedRun:
    """A run that is not, or not completely, on W&B's server.

    Args:
        folder: Run folder.
        parts: W&B files that were not uploaded, oldest first: several if the run was resumed, none if it was never
            tracked.
        is_running: Whether a process still holds the run folder.
    """

    folder: RunFolder
    parts: tuple[Path, ...]
    is_running: bool

    @property
    def is_complete(self) -> bool:
        """Whether W&B's files contain the whole run."""
        return bool(self.parts) and all(map(is_complete, self.parts))

    @property
    def num_bytes(self) -> int:
        """Maximum size of the upload: the log, or W&B's files with their tables, and the bundle."""
        uploads = [*self.parts, *(path for part in self.parts for path in part.parent.glob("files/**/*"))]
        uploads = [*(uploads if self.is_complete else [self.folder.events]), *self.folder.bundle.glob("*")]
        return sum(path.stat().st_size for path in uploads if path.is_file())


def find_unsynced_runs(folders: Iterable[Path]) -> list[UnsyncedRun]:
    """Find runs to upload below some folders, at any depth, oldest first.

    A run without W&B files is found only if its own folder is given.
    """
    runs: dict[Path, RunFolder] = {}
    for start in folders:
        tracked = [file.parents[2] for file in start.rglob("wandb/*run-*/run-*.wandb")]
        tracked += [file.parents[3] for file in start.rglob(f"wandb/{_ARCHIVE}/*run-*/run-*.wandb")]
        untracked = [start] if RunFolder(start).config.is_file() else []
        runs |= {path.resolve(): RunFolder(path) for path in [*tracked, *untracked]}
    found = []
    for folder in runs.values():
        files = _files(folder)
        parts = tuple(file for file in files if not _is_uploaded(file))
        if parts or not files:
            found.append(UnsyncedRun(folder, parts, folder.is_held()))
    return sorted(found, key=lambda run: _start_time(run.parts[0]) if run.parts else "")


def upload(runs: Sequence[UnsyncedRun]) -> list[UnsyncedRun]:
    """Upload runs, and mark the uploaded files.

    Returns:
        The runs whose upload failed.
    """
    parts = {run.folder.path: _parts_to_upload(run) for run in runs}
    _sync([part for of_run in parts.values() for part in of_run])
    return [run for run in runs if not all(map(_is_uploaded, parts[run.folder.path]))]


def _parts_to_upload(run: UnsyncedRun) -> tuple[Path, ...]:
    """W&B's own files if they are complete and the server has nothing of the run; else one new file with the rest."""
    try:
        config = read_config(run.folder)
        read_events(run.folder.events)
    except RunError:
        if run.parts:  # without config or log, only W&B's files can be uploaded
            return run.parts
        raise
    settings = _wandb_settings(config)
    run_id = WandbSink(**settings).run_id(facts_for_replay(run.folder, config))
    uploaded = fetch_server_rows(settings["project"], settings["entity"], run_id)
    if run.is_complete and uploaded is None:
        return run.parts
    sink = WandbSink(**settings, is_replay=True, uploaded=uploaded)
    replay(run.folder, sink, config)
    deadline = time.monotonic() + _WRITE_TIMEOUT_S
    while not is_complete(sink.file):  # W&B's process writes the file
        if time.monotonic() > deadline:
            raise RunError(
                f"W&B must write the whole file {sink.file} within {_WRITE_TIMEOUT_S:g} s, but did not; try again."
            )
        time.sleep(0.02)
    for part in run.parts:
        _archive(part.parent)
    return (sink.file,)


def _wandb_settings(config: dict[str, Any]) -> dict[str, Any]:
    """The W&B settings in the run's config; missing ones have the defaults of a new run."""
    own, default = config.get("tracking") or {}, Tracking()
    settings = {name: own.get(name, getattr(default, name)) for name in _WANDB_SETTINGS}
    return {**settings, "mode": "offline", "finish_timeout_s": default.finish_timeout_s}


def _archive(folder: Path) -> None:
    """Move one of W&B's folders to where neither W&B nor this package looks for runs to upload."""
    archive = folder.parent / _ARCHIVE
    archive.mkdir(exist_ok=True)
    folder.rename(archive / folder.name)


def _sync(parts: Sequence[Path]) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_MODE"}
    # `--include-online` adds online runs that were killed; the parts of a resumed run are uploaded in order.
    command = [sys.executable, "-m", "wandb", "sync", "--include-online", *(str(part.parent) for part in parts)]
    # `wandb sync` writes a log, which must not land in the working directory.
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            command,
            env={**environment, "WANDB_ERROR_REPORTING": "false", "WANDB_DIR": folder},
            stdin=subprocess.DEVNULL,
            timeout=_SYNC_TIMEOUT_S,
            check=False,
        )


def _files(folder: RunFolder) -> list[Path]:
    """W&B's files of a run, oldest first, without W&B's symbolic link to the newest."""
    files = [file for file in folder.path.glob("wandb/*run-*/run-*.wandb") if not file.parent.is_symlink()]
    return sorted(files, key=_start_time)


def _start_time(file: Path) -> str:
    return file.parent.name.partition("run-")[2]


def _is_uploaded(file: Path) -> bool:
    return file.with_name(file.name + SYNCED_SUFFIX).exists()
