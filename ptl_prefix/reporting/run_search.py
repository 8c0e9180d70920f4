"""Finds run folders.

In: run folders, glob patterns, folders that contain runs at any depth, or addresses in an object store, at or above
mirrored runs. Out: the run folders, without duplicates.
"""

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ptl_prefix.artifacts.remote.address import RemoteAddress, is_remote_address
from ptl_prefix.artifacts.remote.fetch import Wanted, is_result
from ptl_prefix.artifacts.remote.find_runs import find_manifests
from ptl_prefix.artifacts.remote.object_store import ObjectStore
from ptl_prefix.artifacts.remote.open_run import open_run
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.errors import RunError


def find_runs(paths: Sequence[str], wanted: Wanted = is_result) -> list[RunFolder]:
    """Find runs, in the order of `paths`, and sorted by path within each.

    Args:
        paths: Run folders, folders above runs, glob patterns such as `outputs/**/prefix_tuning`, or addresses in an
            object store.
        wanted: Which files of mirrored runs are needed.

    Raises:
        RunError: Naming the paths without a run.
        ObjectStoreError: A store cannot be read.
    """
    found: dict[Path, RunFolder] = {}
    empty = []
    for path in paths:
        if is_remote_address(path):
            runs = list(_mirrored_runs(RemoteAddress.parse(path), wanted))
        else:
            runs = [run for folder in _folders(path) for run in _runs_at(folder)]
        found |= {run.path.resolve(): run for run in runs if run.path.resolve() not in found}
        if not runs:
            empty.append(path)
    if empty:
        raise RunError(
            f"A run must be a folder with a config.yaml or a record.json, but found none at {', '.join(empty)}; "
            "give run folders, a folder above them, or a pattern."
        )
    return list(found.values())


def _mirrored_runs(address: RemoteAddress, wanted: Wanted) -> Iterator[RunFolder]:
    for one, _ in find_manifests(ObjectStore(address.scheme), address):
        yield open_run(str(one), wanted)


def _folders(path: str) -> list[Path]:
    """Expand a path; an existing path is not a pattern, even if it contains brackets."""
    if os.path.exists(path):
        return [Path(path)]
    return [Path(found) for found in sorted(glob.glob(os.path.expanduser(path), recursive=True))]


def _runs_at(folder: Path) -> Iterator[RunFolder]:
    """The folder itself if it is a run, else the runs below it. A run contains no other run."""
    for root, names, files in os.walk(folder):
        if "config.yaml" in files or "record.json" in files:
            names.clear()
            yield RunFolder(root)
        names[:] = sorted(name for name in names if not name.startswith("."))
