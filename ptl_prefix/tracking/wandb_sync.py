"""Runs that lie on disk and that W&B's server does not have, or not whole: begun offline, cut off, or never tracked.

In: folders. Out: what would be sent; and, when asked, W&B's own `sync`, as a process, as it is no library. It sends
what W&B's files have, and all of that each time. So a file that was cut off, and a run of which the server has a part,
are set aside, and what is missing is written anew from the run's log. A run that is at work now is left alone.
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
from ptl_prefix.tracking.wandb_sink import SENT_SUFFIX, WandbSink, fetch_server_rows

_SYNC_TIMEOUT_S = 3600.0
_WRITE_TIMEOUT_S = 30.0
_SET_ASIDE = "superseded"
_PLACE = ("project", "entity", "group", "job_type", "tags")


@dataclass(frozen=True)
class UnsyncedRun:
    """One run.

    Args:
        folder: Its folder.
        parts: W&B's files of it that were not sent, the oldest first; several if it was resumed, none if it was never
            tracked.
        is_running: Whether a process is still writing it.
    """

    folder: RunFolder
    parts: tuple[Path, ...]
    is_running: bool

    @property
    def is_complete(self) -> bool:
        """Whether W&B's files have all of it."""
        return bool(self.parts) and all(map(is_complete, self.parts))

    @property
    def num_bytes(self) -> int:
        """What would be sent at most: the log, or W&B's files with their tables, and the bundle."""
        sent = [*self.parts, *(path for part in self.parts for path in part.parent.glob("files/**/*"))]
        sent = [*(sent if self.is_complete else [self.folder.events]), *self.folder.bundle.glob("*")]
        return sum(path.stat().st_size for path in sent if path.is_file())


def find_unsynced_runs(folders: Iterable[Path]) -> list[UnsyncedRun]:
    """What lies in the folders, at any depth, and was not sent; the oldest first.

    A run that W&B was never told of is among them if its own folder is given.
    """
    runs: dict[Path, RunFolder] = {}
    for start in folders:
        tracked = [file.parents[2] for file in start.rglob("wandb/*run-*/run-*.wandb")]
        tracked += [file.parents[3] for file in start.rglob(f"wandb/{_SET_ASIDE}/*run-*/run-*.wandb")]
        asked = [start] if RunFolder(start).config.is_file() else []
        runs |= {path.resolve(): RunFolder(path) for path in [*tracked, *asked]}
    found = []
    for folder in runs.values():
        files = _files(folder)
        parts = tuple(file for file in files if not _is_sent(file))
        if parts or not files:
            found.append(UnsyncedRun(folder, parts, folder.is_held()))
    return sorted(found, key=lambda run: _began(run.parts[0]) if run.parts else "")


def send(runs: Sequence[UnsyncedRun]) -> list[UnsyncedRun]:
    """Send them, and mark what arrived.

    Returns:
        Those that did not arrive.
    """
    parts = {run.folder.path: _parts_to_send(run) for run in runs}
    _sync([part for of_run in parts.values() for part in of_run])
    return [run for run in runs if not all(map(_is_sent, parts[run.folder.path]))]


def _parts_to_send(run: UnsyncedRun) -> tuple[Path, ...]:
    """W&B's own files, if they are whole and the server knows nothing of the run; else one with what is missing."""
    try:
        config = read_config(run.folder)
        read_events(run.folder.events)
    except RunError:
        if run.parts:  # without config or log, W&B's files are all there is
            return run.parts
        raise
    settings = _place(config)
    run_id = WandbSink(**settings).run_id(facts_for_replay(run.folder, config))
    known = fetch_server_rows(settings["project"], settings["entity"], run_id)
    if run.is_complete and known is None:
        return run.parts
    sink = WandbSink(**settings, is_replay=True, known=known)
    replay(run.folder, sink, config)
    deadline = time.monotonic() + _WRITE_TIMEOUT_S
    while not is_complete(sink.file):  # W&B's process writes it
        if time.monotonic() > deadline:
            raise RunError(f"W&B's library must write what is sent, but {sink.file} is not whole; try again.")
        time.sleep(0.02)
    for part in run.parts:
        _set_aside(part.parent)
    return (sink.file,)


def _place(config: dict[str, Any]) -> dict[str, Any]:
    """Where the run belongs in W&B, by its config; what that does not say is as for a new run."""
    own, usual = config.get("tracking") or {}, Tracking()
    settings = {name: own.get(name, getattr(usual, name)) for name in _PLACE}
    return {**settings, "mode": "offline", "finish_timeout_s": usual.finish_timeout_s}


def _set_aside(folder: Path) -> None:
    """Keep one of W&B's folders where neither we nor W&B look for runs to send."""
    place = folder.parent / _SET_ASIDE
    place.mkdir(exist_ok=True)
    folder.rename(place / folder.name)


def _sync(parts: Sequence[Path]) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_MODE"}
    # Runs begun online and cut off count, too; a resumed run's parts go in the order in which they began.
    command = [sys.executable, "-m", "wandb", "sync", "--include-online", *(str(part.parent) for part in parts)]
    # It leaves a log of its own, which is nothing for the working directory.
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            command,
            env={**environment, "WANDB_ERROR_REPORTING": "false", "WANDB_DIR": folder},
            stdin=subprocess.DEVNULL,
            timeout=_SYNC_TIMEOUT_S,
            check=False,
        )


def _files(folder: RunFolder) -> list[Path]:
    """W&B's files of a run, the oldest first; the newest one also has a link to it."""
    files = [file for file in folder.path.glob("wandb/*run-*/run-*.wandb") if not file.parent.is_symlink()]
    return sorted(files, key=_began)


def _began(file: Path) -> str:
    return file.parent.name.partition("run-")[2]


def _is_sent(file: Path) -> bool:
    return file.with_name(file.name + SENT_SUFFIX).exists()
