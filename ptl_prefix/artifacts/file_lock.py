"""The one file lock of this package: advisory (`flock`), and released by the system when its process ends.

In: a path or an open file, and how long to wait. Out: the lock, or the error that the caller chose. Everybody who
needs to keep other processes out uses this file: run folders, atomic writes, unfinished predictions, studies.
"""

import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Self

from ptl_prefix.errors import RunError, StorageError

_POLL_S = 0.02


def open_unlinked(path: Path, flags: int) -> int:
    """Open a file that is neither truncated nor reached through a symbolic link, which could lead to any other file.

    Args:
        path: Path of the file; only its last part must not be a link.
        flags: Flags of `os.open`.

    Returns:
        Open descriptor.

    Raises:
        RunError: If `path` is a symbolic link.
        StorageError: If the disk refuses to make the file.
    """
    try:
        return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise RunError(
                f"A file of a run or study must be a file of its own, but {path} is a symbolic link to "
                f"{os.readlink(path)}, which is left as it is; remove the link, or copy the file."
            ) from error
        if flags & os.O_CREAT and StorageError.describes(error):
            raise StorageError(path, error) from error
        raise


def read_unlinked(path: Path, max_bytes: int | None = None) -> bytes:
    """Read a file of a run folder, which may come from anyone, and not one that a symbolic link in it points to.

    Args:
        path: Path of the file; only its last part must not be a link.
        max_bytes: Largest number of bytes to read; `None` reads all.

    Raises:
        RunError: If `path` is a symbolic link.
        OSError: If the file cannot be read.
    """
    with os.fdopen(open_unlinked(path, os.O_RDONLY), "rb") as file:
        return file.read(-1 if max_bytes is None else max_bytes)


def lock_file(file: int | IO[bytes], *, shared: bool = False, timeout_s: float | None) -> bool:
    """Lock an open file or folder until it is closed.

    Args:
        file: Open file, or descriptor of an open folder.
        shared: Whether other shared locks are allowed beside this one.
        timeout_s: Seconds to wait while another process holds the lock; 0 does not wait, `None` waits without limit.

    Returns:
        Whether the lock was acquired in time.

    Raises:
        OSError: If the file system has no locks, as some network file systems.
    """
    operation = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    if timeout_s is None:
        fcntl.flock(file, operation)
        return True
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(file, operation | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_S)


class FileLock:
    """A lock that one process at a time holds, on an empty file that exists for nothing else.

    Args:
        path: Lock file; it is created if it is missing, and stays on disk.
        timeout_s: Seconds to wait while another process holds the lock; `None` waits without limit.
        busy: Error to raise when that time is over; `None`: a `TimeoutError`.
        required: Whether a file system without locks is an error; if not, nothing is locked there.
    """

    def __init__(
        self, path: Path, *, timeout_s: float | None = None, busy: Exception | None = None, required: bool = True
    ) -> None:
        self._path, self._timeout_s, self._required = path, timeout_s, required
        self._busy = busy or TimeoutError(f"Another process holds {path} for more than {timeout_s} s.")
        self._held: IO[bytes] | None = None

    def acquire(self, meanwhile: Callable[[], None] | None = None, *, every_s: float = 1.0) -> None:
        """Wait for the lock, for `timeout_s` at most.

        Args:
            meanwhile: Called again and again while another process holds the lock; then there is no `timeout_s`.
            every_s: Seconds between two of these calls.

        Raises:
            Exception: `busy`, if another process holds the lock for longer.
            RunError: If the lock file is a symbolic link.
            StorageError: If the disk refuses to make the lock file.
            OSError: If the lock is required and the file system has none.
        """
        file = os.fdopen(open_unlinked(self._path, os.O_RDWR | os.O_CREAT), "r+b")
        try:
            is_acquired = lock_file(file, timeout_s=self._timeout_s if meanwhile is None else 0.0)
        except OSError:
            if self._required:
                file.close()
                raise
            is_acquired = True
        if not is_acquired:
            if meanwhile is None:
                file.close()
                raise self._busy
            _Waiting(file).run(meanwhile, every_s)
        self._held = file

    def release(self) -> None:
        """Release the lock; without one, do nothing."""
        # Cleared before the file is closed: the next holder may be another thread of this process.
        file, self._held = self._held, None
        if file is not None:
            file.close()

    def is_held(self) -> bool:
        """Whether a process holds the lock. Nothing on disk is made or changed."""
        try:
            with os.fdopen(open_unlinked(self._path, os.O_RDONLY), "rb") as file:
                return not lock_file(file, shared=True, timeout_s=0.0)
        except (OSError, RunError):  # the lock file was never made, cannot be read, or cannot be locked
            return False

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


class _Waiting:
    """Waits for a lock in a thread of its own, as the system wakes those that wait in turn, and those that ask do not.

    Args:
        file: Open file, which another process has locked.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._has_lock, self._change = threading.Event(), threading.Lock()
        self._is_abandoned = False
        self._error: OSError | None = None

    def run(self, meanwhile: Callable[[], None], every_s: float) -> None:
        """Wait; if something is raised meanwhile, the lock is released as soon as it is there."""
        threading.Thread(target=self._wait, daemon=True).start()
        try:
            while not self._has_lock.wait(every_s):
                meanwhile()
        except BaseException:
            with self._change:
                self._is_abandoned = True
                if self._has_lock.is_set():
                    self._file.close()
            raise
        if self._error is not None:
            self._file.close()
            raise self._error

    def _wait(self) -> None:
        try:
            lock_file(self._file, timeout_s=None)
        except OSError as error:  # such as a network file system that is gone: `run` would wait for ever
            self._error = error
        with self._change:
            if self._is_abandoned:
                self._file.close()
            self._has_lock.set()
