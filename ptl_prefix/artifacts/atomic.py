"""Atomic writes of files and folders.

In: a path and its new content. Out: the old content or the new one at that path, even after an error, Ctrl-C or a
killed process. New content is written to a sibling named `.<name>.tmp-<random>`, which no reader opens, and renamed.
The next write to the same path removes what a killed writer left behind.
"""

import contextlib
import ctypes
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ptl_prefix.artifacts.file_lock import lock_file

_ASIDE = ".old"
"""The end of the temporary name of an old folder that is about to be replaced; see `_swap_in_two_steps`."""


def write_atomically(path: str | Path, data: str | bytes) -> None:
    """Write `data` to the file at `path`; its folder is created if it is missing. Text is written as UTF-8."""
    path = _real(path)
    content = data.encode("utf-8") if isinstance(data, str) else data
    with _temporary_sibling(path) as temporary:
        try:
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def write_folder_atomically(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder, which becomes `path` when the block ends without an error.

    A folder that exists at `path` is replaced in one step where the file system can (Linux and macOS). Elsewhere it is
    renamed first; if the writer is killed at that moment, the next write restores it.
    """
    path = _real(path)
    with _temporary_sibling(path) as temporary:
        temporary.mkdir()
        try:
            yield temporary
            _flush(temporary)
            _put_in_place(temporary, path)
        finally:
            # After a swap this is the old folder, after an error the unfinished one.
            shutil.rmtree(temporary, ignore_errors=True)


def _real(path: str | Path) -> Path:
    """The target of a symbolic link, as for `open`: a rename would replace the link itself."""
    return Path(os.path.realpath(path))


@contextmanager
def _temporary_sibling(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that no other process removes while the block runs.

    Writers hold a shared lock on the folder, and removing leftovers takes an exclusive lock. The process that gets it
    knows that all temporary names in the folder are leftovers, as the system releases the locks of a killed process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        if _lock(folder, timeout_s=0.0):
            _remove_leftovers(path)
        _lock(folder, shared=True, timeout_s=None)
        yield _temporary_name(path)
        os.fsync(folder)
    finally:
        os.close(folder)


def _lock(folder: int, *, shared: bool = False, timeout_s: float | None) -> bool:
    try:
        return lock_file(folder, shared=shared, timeout_s=timeout_s)
    except OSError:  # a network file system without locks on folders: leftovers are kept
        return False


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp-{secrets.token_hex(8)}")


def _remove_leftovers(path: Path) -> None:
    """Remove what killed writers of `path` left behind, or restore the old folder that one of them had renamed."""
    for leftover in list(path.parent.iterdir()):
        if not leftover.name.startswith(f".{path.name}.tmp-"):
            continue
        if leftover.name.endswith(_ASIDE) and not path.exists():
            leftover.rename(path)
        elif leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def _flush(folder: Path) -> None:
    """Flush every file of a folder to disk, so that a crash cannot leave an empty file under a final name."""
    for root, _, names in os.walk(folder):
        for path in (Path(root, name) for name in (*names, "")):
            if stat.S_ISREG(path.lstat().st_mode) or path == Path(root):
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)


def _put_in_place(temporary: Path, path: Path) -> None:
    try:
        os.rename(temporary, path)
    except OSError:
        if not path.is_dir():
            raise
        if not _swap(temporary, path):
            _swap_in_two_steps(temporary, path)


def _swap(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; `False` if the system or the file system cannot."""
    libc = ctypes.CDLL(None)
    names = os.fsencode(one), os.fsencode(other)
    with contextlib.suppress(AttributeError):
        if sys.platform == "darwin":
            return bool(libc.renamex_np(*names, 2) == 0)  # 2: RENAME_SWAP
        here = -100  # AT_FDCWD
        return bool(libc.renameat2(here, names[0], here, names[1], 2) == 0)  # 2: RENAME_EXCHANGE
    return False


def _swap_in_two_steps(temporary: Path, path: Path) -> None:
    aside = _temporary_name(path)
    aside = aside.with_name(aside.name + _ASIDE)
    os.rename(path, aside)
    try:
        os.rename(temporary, path)
    except OSError:
        os.rename(aside, path)
        raise
    shutil.rmtree(aside, ignore_errors=True)
