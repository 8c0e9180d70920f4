"""Small folders with the files of a run, and their mirrors.

In: contents. Out: a `RunFolder` whose checkpoints are a few random bytes, and a `Mirror` of it.
"""

import json
import os
from pathlib import Path

from ptl_prefix.artifacts.remote.address import RemoteAddress
from ptl_prefix.artifacts.remote.mirror import Mirror
from ptl_prefix.artifacts.remote.run_manifest import RunManifest
from ptl_prefix.artifacts.remote.snapshot import snapshot_of_run
from ptl_prefix.artifacts.run_folder import RunFolder


def small_run(path: Path, step: int = 1) -> RunFolder:
    """A run folder after some steps."""
    folder = RunFolder(path)
    folder.bundle.mkdir(parents=True, exist_ok=True)
    folder.checkpoints.mkdir(exist_ok=True)
    folder.config.write_text("run_id: run\n")
    train_on(folder, step)
    return folder


def train_on(folder: RunFolder, step: int) -> None:
    """Change the files of a run as a further validation does."""
    with folder.events.open("a") as events:
        events.write(json.dumps({"time_s": 1.0, "kind": "validation", "step": step}) + "\n")
    for path in (folder.best, folder.last, folder.bundle / "tensors.bin"):
        new = path.with_name("new")
        new.write_bytes(f"{path.name} of step {step} ".encode() + os.urandom(2000))
        new.replace(path)


def mirror_of(folder: RunFolder, address: RemoteAddress) -> Mirror:
    """A mirror as a new process has it."""
    return Mirror(folder.path, address, "run", ["task", "run"])


def write_now(mirror: Mirror, folder: RunFolder) -> RunManifest:
    """Mirror a folder as it is."""
    snapshot = snapshot_of_run(folder)
    try:
        return mirror.write(snapshot, "open")
    finally:
        snapshot.remove()


def contents(folder: Path) -> dict[str, bytes]:
    """The mirrored files of a folder."""
    names = (path for path in folder.rglob("*") if path.is_file() and ".mirror" not in path.parts)
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in names
        if path.name not in ("mirror.json", ".lock")
    }
