"""Keeps what was fetched from object stores below a number of bytes, and never removes what a process reads.

In: the folders that this process reads, until it releases them or ends. Out: a cache from which the folders and objects
that were unused for the longest time are removed. Each process lists what it reads in a file that it keeps locked: the
system releases the lock when the process dies.
"""

import os
import secrets
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ptl_prefix.artifacts.atomic import place_errors
from ptl_prefix.artifacts.file_lock import lock_file, open_unlinked
from ptl_prefix.artifacts.user_cache import user_cache_folder
from ptl_prefix.errors import ObjectStoreError

MAX_BYTES = 20 * 10**9
"""As many as of cached hidden states: a few hundred runs with their checkpoints, and no burden to a usual disk."""
MAX_BYTES_VARIABLE = "PTL_PREFIX_REMOTE_CACHE_BYTES"
"""Environment variable with another number of bytes."""

RUNS, OBJECTS, SERVED = "runs", "objects", "served"
"""Folders of the cache: states of runs that were read, what was fetched by its hash, and a folder of each server."""

_READERS = "readers"
_LOCK = ".lock"
_REMOVED = ".removed-"
_TRIM_EVERY_S = 60.0


def remote_cache_folder() -> Path:
    """The folder of everything that was fetched from object stores."""
    return user_cache_folder() / "remote"


@contextmanager
def cache_in_use() -> Iterator[None]:
    """Keep the cache from being trimmed while the block reads or fills it, and trim it afterwards from time to time."""
    root = remote_cache_folder()
    with _locked(root, shared=True):
        yield
    if time.monotonic() - _last_trim.get(str(root), float("-inf")) >= _TRIM_EVERY_S:
        _last_trim[str(root)] = time.monotonic()
        with suppress(OSError):  # files of another user, or a disk that fails: what was read is in order
            trim_cache()


def keep(folder: Path) -> None:
    """Keep a folder of the cache until this process releases it or ends; only while the cache is in use."""
    name = _entry_name(folder)
    os.utime(remote_cache_folder() / name)
    _list("+", name)


def release(folder: Path) -> None:
    """Allow that a folder is removed that this process has kept."""
    with cache_in_use():
        _list("-", _entry_name(folder))


def trim_cache(max_bytes: int | None = None) -> int:
    """Remove what was unused for the longest time until the rest is small enough; nothing while the cache is in use.

    Args:
        max_bytes: Bytes that may stay; `None` is the number in the environment, or `MAX_BYTES`.

    Returns:
        The bytes that were removed.

    Raises:
        ObjectStoreError: The number in the environment is none.
    """
    root, limit = remote_cache_folder(), _limit() if max_bytes is None else max_bytes
    with _locked(root, shared=False) as is_locked:
        if not is_locked:
            return 0
        kept = _kept_entries(root)
        _remove_leftovers(root, kept)
        return _trim(root, kept, limit)


def _limit() -> int:
    text = os.environ.get(MAX_BYTES_VARIABLE, "").strip()
    if text and not text.isdecimal():
        raise ObjectStoreError(f"${MAX_BYTES_VARIABLE} must be a number of bytes, but is {text!r:.100}; correct it.")
    return int(text) if text else MAX_BYTES


# The locks

_last_trim: dict[str, float] = {}
_lists: dict[tuple[int, str], int] = {}
"""Descriptor of the list of a process; a fork has one of its own."""
_here = threading.Lock()


@contextmanager
def _locked(root: Path, *, shared: bool) -> Iterator[bool]:
    """The lock of the whole cache: shared by those that use it, exclusive for the one that trims it, who does not wait.

    Yields whether it is locked; a file system without locks has none, and its cache is not trimmed.
    """
    with place_errors(root):
        root.mkdir(parents=True, exist_ok=True)
    file = open_unlinked(root / _LOCK, os.O_RDWR | os.O_CREAT)
    try:
        try:
            is_locked = lock_file(file, shared=shared, timeout_s=None if shared else 0.0)
        except OSError:
            is_locked = False
        yield is_locked
    finally:
        os.close(file)


def _list(mark: str, name: str) -> None:
    """Note in the list of this process that it reads an entry, or does no more."""
    root = remote_cache_folder()
    with _here:
        key = (os.getpid(), str(root))
        if key not in _lists:
            folder = root / _READERS
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{os.getpid()}-{secrets.token_hex(4)}"
            file = open_unlinked(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
            with suppress(OSError):
                lock_file(file, timeout_s=0.0)
            _lists[key] = file
        os.write(_lists[key], f"{mark}{name}\n".encode())


def _kept_entries(root: Path) -> set[str]:
    """The entries that a living process reads; the lists of those that have ended are removed."""
    kept: set[str] = set()
    for path in _children(root / _READERS):
        file = open_unlinked(path, os.O_RDWR)
        try:
            if lock_file(file, timeout_s=0.0):
                path.unlink(missing_ok=True)
                continue
            counts: Counter[str] = Counter()
            for line in path.read_text(encoding="utf-8").splitlines():
                counts[line[1:]] += 1 if line.startswith("+") else -1
            kept |= {name for name, count in counts.items() if count > 0}
        finally:
            os.close(file)
    return kept


# What is removed


@dataclass(frozen=True)
class _Entry:
    """A folder of a run, or an object.

    Args:
        path: Its path.
        used_s: Time of its last use.
        sizes: Size of each of its files, by inode: a file of a run is a second name of an object.
    """

    path: Path
    used_s: float
    sizes: dict[int, int]


def _trim(root: Path, kept: set[str], limit: int) -> int:
    runs = [_Entry(path, path.stat().st_mtime, _sizes(path)) for path in _children(root / RUNS)]
    used: dict[int, float] = {}
    for run in runs:
        used |= {inode: max(run.used_s, used.get(inode, 0.0)) for inode in run.sizes}
    objects = [_object(path, used) for folder in _children(root / OBJECTS) for path in _children(folder)]
    entries = [*runs, *objects]
    names = Counter(inode for entry in entries for inode in entry.sizes)
    before = total = sum({inode: size for entry in entries for inode, size in entry.sizes.items()}.values())
    for entry in sorted(entries, key=lambda entry: entry.used_s):
        if total <= limit:
            break
        if _entry_name(entry.path) in kept:
            continue
        _remove(root, entry.path)
        for inode, size in entry.sizes.items():
            names[inode] -= 1
            total -= 0 if names[inode] else size
    return before - total


def _object(path: Path, used: dict[int, float]) -> _Entry:
    found = path.stat()
    return _Entry(path, max(found.st_mtime, used.get(found.st_ino, 0.0)), {found.st_ino: found.st_size})


def _sizes(folder: Path) -> dict[int, int]:
    files = (path.lstat() for path in folder.rglob("*") if path.is_file())
    return {found.st_ino: found.st_size for found in files}


def _remove_leftovers(root: Path, kept: set[str]) -> None:
    """Remove what killed processes were fetching or removing, and the folders of servers that have ended."""
    for path in _children(root):
        if path.name.startswith(_REMOVED):
            shutil.rmtree(path, ignore_errors=True)
    for path in _children(root / SERVED):
        if _entry_name(path) not in kept:
            _remove(root, path)
    for folder in _children(root / OBJECTS):
        for path in _children(folder):
            if path.name.startswith("."):
                path.unlink(missing_ok=True)
    for path in _children(root / RUNS):
        if not any(path.glob("[!.]*/[!.]*")):
            _remove(root, path)


def _remove(root: Path, path: Path) -> None:
    """Remove an entry; a folder first loses its name, so that a half removed one never looks whole."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    aside = root / f"{_REMOVED}{secrets.token_hex(8)}"
    path.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _entry_name(path: Path) -> str:
    """`runs/<hash>` for any path in that folder, and the like."""
    return "/".join(path.relative_to(remote_cache_folder()).parts[:2])
