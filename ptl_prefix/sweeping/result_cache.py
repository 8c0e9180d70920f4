"""Results that are known: what was trained once is not trained again, in this sweep or another.

In: a frozen config. Out: the run that had the same config, code, libraries and data, if it is still there and whole.
The index lies beside the studies, a small file for each result; whoever deletes a run's folder takes it out, too.
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
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import RunRecord, read_record, write_record
from ptl_prefix.errors import PtlPrefixError

INDEX_FOLDER = ".results"
_NOT_THE_CONTENT = ("run_id", "dry_run", "resume", "study", "trial", "tracking")
_NOT_IN_GROUPS = {"data": ("cache_dir",)}
_READ_WHOLE_BYTES = 64 * 2**20
"""Larger files are told apart by size and time: to read a backbone's weights for each trial would cost too much."""


@dataclass(frozen=True)
class CachedResult:
    """A result that is there already.

    Args:
        folder: The run that it is of.
        value: Of the objective.
        notes: Its cost and size.
    """

    folder: Path
    value: float
    notes: Mapping[str, Any]


class ResultCache:
    """The index of results beside some studies.

    Args:
        root: The folder of studies.
    """

    def __init__(self, root: Path) -> None:
        self._index = root / INDEX_FOLDER

    def find(self, content: str, objective: str) -> CachedResult | None:
        """The run of this content (see `content_of`); `None` if there is none, or it was changed or removed."""
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
        return CachedResult(folder.path, record.metrics[objective], notes_of(record))

    def keep(self, folder: RunFolder, content: str) -> None:
        """Remember a run that has finished."""
        entry = json.dumps({"folder": str(folder.path.resolve()), "state": _state_of(folder)})
        write_atomically(self._index / f"{content}.json", entry)


def notes_of(record: RunRecord) -> dict[str, Any]:
    """What a study writes down of a run: what it cost, and how large it is."""
    return {
        "train_s": record.cost.train_s,
        "tokens": record.cost.tokens,
        "steps": record.cost.steps,
        "parameters_trained": record.parameters.trained,
        "parameters_stored": record.parameters.stored,
    }


def mark_pruned(folder: RunFolder) -> None:
    """Say so in a run's own record, which only knows that it was stopped."""
    try:
        record = read_record(folder.record)
    except PtlPrefixError:
        return
    if record.status == "stopped":
        write_record(folder.record, replace(record, status="pruned"))


def content_of(config: Mapping[str, Any]) -> str:
    """A fingerprint of everything that a run's numbers follow from."""
    content = {
        key: {name: one for name, one in value.items() if name not in _NOT_IN_GROUPS[key]}
        if key in _NOT_IN_GROUPS
        else value
        for key, value in config.items()
        if key not in _NOT_THE_CONTENT
    }
    values = (value for _, value in walk(content, into_lists=True))
    files = sorted({value for value in values if isinstance(value, str) and _is_path(value)})
    return fingerprint_text(
        yaml.safe_dump(content, sort_keys=True), code_fingerprint(), *(part for path in files for part in _data(path))
    )


@cache
def code_fingerprint() -> str:
    """The code of this package, and the libraries that compute."""
    package = Path(__file__).resolve().parents[1]
    libraries = (f"{name} {version}" for name, version in library_versions().items())
    return fingerprint_text(fingerprint_files(package.rglob("*.py")), *libraries)


def _state_of(folder: RunFolder) -> str:
    """What a run says of itself, and by which config. Who goes on with it, or edits it, changes that."""
    return fingerprint_text(*(path.read_text(encoding="utf-8") for path in (folder.config, folder.record)))


def _is_path(text: str) -> bool:
    try:
        return text != "" and Path(text).exists()
    except OSError:  # longer than a name can be, for instance
        return False


def _data(name: str) -> Iterator[str]:
    """What lies at a path that a config names."""
    start = Path(name)
    paths = sorted(path for path in start.rglob("*") if path.is_file()) if start.is_dir() else [start]
    for path in paths:
        stat = path.stat()
        yield path.relative_to(start).as_posix()
        if stat.st_size > _READ_WHOLE_BYTES:
            yield f"{stat.st_size} {stat.st_mtime_ns}"
        else:
            yield hashlib.sha256(path.read_bytes()).hexdigest()
