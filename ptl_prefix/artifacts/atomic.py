"""Atomic writes of files and folders.

In: a path and its new content. Out: the old content or the new one at that path, even after an error, Ctrl-C or a
killed process. New content is written to a sibling named `.<name>.tmp-<random>`, which no reader opens, flushed to the
disk together with its folder, and renamed. The next write to the same path removes what a killed writer left behind.

A disk that is full, read-only or failing raises a `StorageError`, and no temporary file stays. `reserve_space` keeps
room for a file that must be written even then.
"""

import contextlib
import ctypes
import errno
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ptl_prefix.artifacts.file_lock import lock_file
from ptl_prefix.errors import StorageError

_ASIDE = ".old"
"""The end of the temporary name of an old folder that is about to be replaced; see `_swap_in_two_steps`."""


_TEMPORARY = re.compile(r"\A\.(.+)\.tmp-[^.]+(?:\.old)?\Z")
"""The name of a temporary file or folder; the group is the name of what was to be written."""


_PIECE_BYTES = 64 * 2**20
"""Largest single write: the system writes at most 2 GiB at once."""


def write_atomically(path: str | Path, data: str | bytes, *, follow_links: bool = True) -> None:
    """Write `data` to the file at `path`; its folder is created if it is missing. Text is written as UTF-8.

    Args:
        path: Path of the file.
        data: New content.
        follow_links: Whether a symbolic link at `path` is followed; if not, the file replaces the link.

    Raises:
        StorageError: If the disk does not take the file.
    """
    content = data.encode("utf-8") if isinstance(data, str) else data
    with storage_errors(path, len(content)), write_file_atomically(path, follow_links=follow_links) as temporary:
        write_new_file(temporary, content)


@contextmanager
def write_file_atomically(path: str | Path, *, follow_links: bool = True) -> Iterator[Path]:
    """Yield a temporary path; the file that the block writes there becomes `path` if the block ends without an error.

    Raises:
        StorageError: If the disk does not take the file.
    """
    path = _real(path) if follow_links else Path(path)
    with storage_errors(path), _temporary_sibling(path) as temporary:
        try:
            yield temporary
            _flush_one(temporary)
            os.replace(temporary, path)
        finally:
            # After an error that left none, a failing disk may refuse this, too; the first error is the one to raise.
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def write_new_file(path: Path, content: bytes | memoryview) -> None:
    """Write a file that does not exist yet.

    Raises:
        StorageError: If the disk does not take the file.
    """
    with storage_errors(path, len(content)):
        with place_errors(path):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            write_all(descriptor, content)
        finally:
            os.close(descriptor)


def write_all(descriptor: int, content: bytes | memoryview) -> None:
    """Write all bytes to an open file; one call of the system may write fewer."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest[:_PIECE_BYTES]) :]


@contextmanager
def storage_errors(path: str | Path, num_bytes: int | None = None) -> Iterator[None]:
    """Raise a `StorageError` that names `path` where the block fails because of the disk.

    Args:
        path: File or folder that the block writes.
        num_bytes: Bytes that it writes; `None` if that is not known.
    """
    try:
        yield
    except OSError as error:
        if not (isinstance(error, StorageError) or StorageError.describes(error)):
            raise
        known = error.num_bytes if isinstance(error, StorageError) else None
        raise StorageError(path, error, num_bytes or known) from error


@contextmanager
def place_errors(path: str | Path) -> Iterator[None]:
    """Raise a `StorageError` where the block cannot make something at `path`, such as below `/proc` or a file."""
    try:
        yield
    except OSError as error:
        raise StorageError(path, error) from error


def reserve_space(path: Path, num_bytes: int) -> None:
    """Occupy space and an inode on the disk, until `release_space` frees them for a file that must be written.

    Raises:
        StorageError: If the disk has no such space.
    """
    if not path.is_file() or path.stat().st_size < num_bytes:
        # Not zeros: a file system may store those as a hole, which occupies nothing.
        write_atomically(path, secrets.token_bytes(num_bytes), follow_links=False)


def release_space(path: Path) -> None:
    """Free what `reserve_space` occupied; without it, or on a disk that refuses, do nothing."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


@contextmanager
def write_folder_atomically(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder, which becomes `path` when the block ends without an error.

    A folder that exists at `path` is replaced in one step where the file system can (Linux and macOS). Elsewhere it is
    renamed first; if the writer is killed at that moment, the next write restores it.

    Raises:
        StorageError: If the disk does not take the folder.
    """
    path = _real(path)
    with storage_errors(path), _temporary_sibling(path) as temporary:
        with place_errors(path):
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
    with place_errors(path):
        if not path.name:  # the root of the file system
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
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


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writers left behind in a folder, whatever they wrote; none while a process writes there."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if _lock(descriptor, timeout_s=0.0):
            for name in {name for path in folder.iterdir() for name in _TEMPORARY.findall(path.name)}:
                _remove_leftovers(folder / name)
    finally:
        os.close(descriptor)


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
                _flush_one(path)


def _flush_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _put_in_place(temporary: Path, path: Path) -> None:
    try:
        os.rename(temporary, path)
    except OSError as error:
        if not path.is_dir():
            raise StorageError(path, error) from error
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
