"""Where a study's trials are written down, and the lock under which workers decide what is next.

In: the study's folder and a URL. Out: Optuna's storage, readable by optuna-dashboard, and a lock that all workers of
the study respect, on one machine or many: beside a file it is a file's, in PostgreSQL the server's own.
"""

import fcntl
import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ptl_prefix.artifacts.event_log import cut_torn_line
from ptl_prefix.errors import SweepError

JOURNAL_FILE = "journal.log"
_HERE = threading.RLock()
"""A file's lock is its process's; the threads of one are kept apart by this."""


class StudyStorage:
    """The storage of one study's trials.

    Args:
        folder: The study's folder, which all workers see.
        url: `sqlite:///…` or `postgresql://…`; `None`: a journal in the folder.

    Raises:
        SweepError: If it cannot be opened.
    """

    def __init__(self, folder: Path, url: str | None) -> None:
        self._folder, self._url = folder, url
        self.trials = self._open()

    def _open(self) -> Any:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        if self._url is None:
            from optuna.storages import JournalStorage
            from optuna.storages.journal import JournalFileBackend

            path = self._folder / JOURNAL_FILE
            return JournalStorage(JournalFileBackend(str(path), lock_obj=_JournalLock(path)))  # type: ignore[arg-type]
        try:
            # Workers of one machine write to one file, and wait for each other.
            waiting = {"connect_args": {"timeout": 60}} if self._url.startswith("sqlite") else None
            return optuna.storages.RDBStorage(url_of_driver(self._url), engine_kwargs=waiting)
        except Exception as error:
            fact = str(error).strip().splitlines()[0]
            raise SweepError(
                f"A study's storage must open, but {without_password(self._url)} does not: {fact}"
            ) from error

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep every other worker from deciding; whoever dies, however it does, lets go."""
        with _HERE:
            if self._url is not None and self._url.startswith("postgresql"):
                with self._server_lock():
                    yield
                return
            with (self._folder / ".lock").open("w") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                yield

    @contextmanager
    def _server_lock(self) -> Iterator[None]:
        import sqlalchemy

        # The same number on every machine; the server lets go when the connection ends.
        number = int.from_bytes(hashlib.sha256(str(self._folder.name).encode()).digest()[:7])
        with self.trials.engine.connect() as connection:
            connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:number)"), {"number": number})
            try:
                yield
            finally:
                connection.execute(sqlalchemy.text("SELECT pg_advisory_unlock(:number)"), {"number": number})


class _JournalLock:
    """What Optuna holds while it adds to a journal.

    Optuna's own is a file that a killed worker leaves behind, and everybody else then waits for half a minute. What
    that worker was writing is cut off, as the next line would be appended to it.

    Args:
        path: The journal.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: IO[bytes] | None = None

    def acquire(self) -> bool:
        """Wait for the lock."""
        file = self._path.with_name(self._path.name + ".lock").open("wb")
        fcntl.flock(file, fcntl.LOCK_EX)
        self._held = file
        cut_torn_line(self._path)
        return True

    def release(self) -> None:
        """Let go."""
        if self._held is not None:
            self._held.close()
            self._held = None


def url_of_driver(url: str) -> str:
    """A URL of PostgreSQL with the driver that the extra `[postgres]` installs."""
    return url.replace("postgresql://", "postgresql+psycopg://", 1)


def without_password(url: str) -> str:
    """A URL that may be shown."""
    before, at, behind = url.rpartition("@")
    scheme, slashes, login = before.partition("://")
    return f"{scheme}{slashes}{login.split(':')[0]}:***@{behind}" if at and ":" in login else url
