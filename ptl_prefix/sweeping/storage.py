"""Where a study's trials are written down, and the lock under which workers decide what is next.

In: the study's folder and a URL. Out: Optuna's storage, readable by optuna-dashboard, and a lock that all workers of
the study respect, on one machine or many: beside a file it is a file's, in PostgreSQL the server's own.
"""

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptl_prefix.artifacts.event_log import cut_torn_line
from ptl_prefix.artifacts.file_lock import FileLock
from ptl_prefix.errors import SweepError

if TYPE_CHECKING:
    from sqlalchemy import Engine

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
        self._file_lock = FileLock(folder / ".lock")
        self.trials = self._open()

    def _open(self) -> Any:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        if self._url is None:
            from optuna.storages import JournalStorage
            from optuna.storages.journal import JournalFileBackend

            path = self._folder / JOURNAL_FILE
            lock: Any = _JournalLock(path)  # not of Optuna's class, which would have to be imported with this file
            return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
        try:
            # Workers of one machine write to one file, and wait for each other.
            waiting = {"connect_args": {"timeout": 60}} if not self._is_served else None
            # Who comes first makes the tables; two who did would each find the other's half.
            with self._first_lock():
                return optuna.storages.RDBStorage(url_of_driver(self._url), engine_kwargs=waiting)
        except Exception as error:
            fact = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise SweepError(
                f"A study's storage must open, but {without_password(self._url)} does not: {fact}"
            ) from error

    def close(self) -> None:
        """Let go of a database's connections; a journal has none."""
        if self._url is not None:
            self.trials.remove_session()
            self.trials.engine.dispose()

    @property
    def _is_served(self) -> bool:
        """Whether a server keeps the trials, which then has the locks, too."""
        return self._url is not None and self._url.startswith("postgresql")

    @contextmanager
    def _first_lock(self) -> Iterator[None]:
        """The lock before there is a storage."""
        if not self._is_served:
            with self._file_lock:
                yield
            return
        import sqlalchemy

        assert self._url is not None
        engine = sqlalchemy.create_engine(url_of_driver(self._url), poolclass=sqlalchemy.NullPool)
        with self._server_lock(engine):
            yield

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep every other worker from deciding; whoever dies, however it does, lets go."""
        with _HERE:
            if self._is_served:
                with self._server_lock(self.trials.engine):
                    yield
            else:
                with self._file_lock:
                    yield

    @contextmanager
    def _server_lock(self, engine: "Engine") -> Iterator[None]:
        import sqlalchemy

        # The same number on every machine; the server lets go when the connection ends.
        number = int.from_bytes(hashlib.sha256(self._folder.resolve().name.encode()).digest()[:7])
        # No transaction: one that is open for as long as a lock is held would keep the server from tidying up.
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
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
        self._lock = FileLock(path.with_name(path.name + ".lock"))

    def acquire(self) -> bool:
        """Wait for the lock."""
        self._lock.acquire()
        cut_torn_line(self._path)
        return True

    def release(self) -> None:
        """Let go."""
        self._lock.release()


def url_of_driver(url: str) -> str:
    """A URL of PostgreSQL with the driver that the extra `[postgres]` installs."""
    return url.replace("postgresql://", "postgresql+psycopg://", 1)


def absolute_url(url: str | None) -> str | None:
    """A URL that means the same from every working directory."""
    scheme, mark, path = (url or "").partition("sqlite:///")
    return url if not mark or scheme else f"{mark}{Path(path).absolute()}"


def without_password(url: str) -> str:
    """A URL that may be shown."""
    shown = re.sub(r"([?&]password=)[^&]*", r"\1***", url)
    before, at, behind = shown.rpartition("@")
    scheme, slashes, login = before.partition("://")
    return f"{scheme}{slashes}{login.split(':')[0]}:***@{behind}" if at and ":" in login else shown
