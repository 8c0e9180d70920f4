"""Results that are reused across studies, so that the same training is not repeated.

In: a frozen config. Out: the finished run with the same config, code, libraries and data, if its folder is unchanged.
The index is beside the studies and has a small file for each result. Deleting a run's folder removes its result.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.artifacts.config_tree import walk
from ptl_prefix.artifacts.fingerprint import fingerprint_files, fingerprint_text, library_versions
from ptl_prefix.artifacts.remote.mirror_state import read_mirror_state
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import RunRecord, read_record, write_record
from ptl_prefix.errors import PtlPrefixError

INDEX_FOLDER = ".results"
_IGNORED_KEYS = ("run_id", "dry_run", "resume", "resume_anyway", "study", "trial", "tracking", "routing", "outputs_url")
_IGNORED_IN_GROUPS = {"data": ("cache_dir", "max_hidden_state_bytes")}
_MAX_HASHED_BYTES = 64 * 2**20
"""Larger files are identified by size and modification time: hashing a backbone's weights for each trial is slow."""


@dataclass(frozen=True)
class CachedResult:
    """The result of an earlier run.

    Args:
        folder: The run's folder.
        value: The run's objective.
        notes: The run's cost and size; and where the run is mirrored, if it is.
    """

    folder: Path
    value: float
    notes: Mapping[str, Any]


class ResultCache:
    """The index of results beside the studies of one folder.

    Args:
        root: The folder that holds the studies.
    """

    def __init__(self, root: Path) -> None:
        self._index = root / INDEX_FOLDER

    def find(self, content: str, objective: str) -> CachedResult | None:
        """The result of a content (see `content_of`); `None` if there is no such run, or it was changed or removed."""
        path = self._index / f"{content}.json"
        try:
            entry = json.loads(path.read_text(encoding="utf-8"))
            folder = RunFolder(entry["folder"])
            if _state_of(folder) != entry["state"]:
                return None
            record = read_record(folder.record)
        except (OSError, ValueError, KeyError, TypeError, PtlPrefixError):
            return None
        if record.status != "finished" or objective not in record.metrics:
            return None
        mirror = read_mirror_state(folder.path)
        address = {} if mirror is None else {"reused_address": mirror.address}
        return CachedResult(folder.path, record.metrics[objective], {**notes_of(record), **address})

    def keep(self, folder: RunFolder, content: str) -> None:
        """Add a finished run to the index."""
        entry = json.dumps({"folder": str(folder.path.resolve()), "state": _state_of(folder)})
        write_atomically(self._index / f"{content}.json", entry)


def notes_of(record: RunRecord) -> dict[str, Any]:
    """What a study stores of a run: its cost and its number of parameters."""
    return {
        "train_s": record.cost.train_s,
        "tokens": record.cost.tokens,
        "steps": record.cost.steps,
        "parameters_trained": record.parameters.trained,
        "parameters_stored": record.parameters.stored,
    }


def mark_pruned(folder: RunFolder) -> None:
    """Change the status in a run's record from `stopped` to `pruned`, which the run itself could not know."""
    try:
        record = read_record(folder.record)
    except PtlPrefixError:
        return
    if record.status == "stopped":
        write_record(folder.record, replace(record, status="pruned"))


def content_of(config: Mapping[str, Any]) -> str:
    """A fingerprint of everything that determines a run's results."""
    content = {
        key: {name: one for name, one in value.items() if name not in _IGNORED_IN_GROUPS[key]}
        if key in _IGNORED_IN_GROUPS
        else value
        for key, value in config.items()
        if key not in _IGNORED_KEYS
    }
    values = (value for _, value in walk(content, into_lists=True))
    files = sorted({value for value in values if isinstance(value, str) and _is_path(value)})
    return fingerprint_text(
        yaml.safe_dump(content, sort_keys=True), code_fingerprint(), *(part for path in files for part in _data(path))
    )


@cache
def code_fingerprint() -> str:
    """A fingerprint of this package's code and of the libraries that compute."""
    package = Path(__file__).resolve().parents[1]
    libraries = (f"{name} {version}" for name, version in library_versions().items())
    return fingerprint_text(fingerprint_files(package.rglob("*.py")), *libraries)


def _state_of(folder: RunFolder) -> str:
    """A fingerprint of a run's config and record, which changes when the run is resumed or edited."""
    return fingerprint_text(*(path.read_text(encoding="utf-8") for path in (folder.config, folder.record)))


def _is_path(text: str) -> bool:
    try:
        return text != "" and Path(text).exists()
    except OSError:  # for example a text longer than a file name can be
        return False


def _data(name: str) -> Iterator[str]:
    """The content of a file or folder that a config names."""
    start = Path(name)
    paths = sorted(path for path in start.rglob("*") if path.is_file()) if start.is_dir() else [start]
    for path in paths:
        stat = path.stat()
        yield path.relative_to(start).as_posix()
        if stat.st_size > _MAX_HASHED_BYTES:
            yield f"{stat.st_size} {stat.st_mtime_ns}"
        else:
            yield hashlib.sha256(path.read_bytes()).hexdigest()
