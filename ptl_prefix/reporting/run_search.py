"""Which runs are meant.

In: what a person types: run folders, patterns, or folders with runs somewhere below. Out: the runs' folders, each once.
"""

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.errors import RunError


def find_runs(places: Sequence[str]) -> list[RunFolder]:
    """The runs at some places, in the order of the places, and of one place in that of their paths.

    Args:
        places: Each a run folder, a folder above runs, or a pattern such as `outputs/**/prefix_tuning`.

    Raises:
        RunError: Naming the places where there is no run.
    """
    found: dict[Path, RunFolder] = {}
    empty = []
    for place in places:
        runs = [run for folder in _folders(place) for run in _runs_at(folder)]
        found |= {run.path.resolve(): run for run in runs if run.path.resolve() not in found}
        if not runs:
            empty.append(place)
    if empty:
        raise RunError(
            f"A run must be a folder with a config.yaml or a record.json, but there is none at {', '.join(empty)}; "
            "give run folders, a folder above them, or a pattern."
        )
    return list(found.values())


def _folders(place: str) -> list[Path]:
    """What a place names; a path that exists is no pattern, whatever brackets it has."""
    if os.path.exists(place):
        return [Path(place)]
    return [Path(path) for path in sorted(glob.glob(os.path.expanduser(place), recursive=True))]


def _runs_at(folder: Path) -> Iterator[RunFolder]:
    """The folder's runs: itself, or those below it. A run holds no other run."""
    for root, names, files in os.walk(folder):
        if "config.yaml" in files or "record.json" in files:
            names.clear()
            yield RunFolder(root)
        names[:] = sorted(name for name in names if not name.startswith("."))
