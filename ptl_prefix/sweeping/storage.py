"""Optuna's storage of a study's trials, and the lock that the study's workers share.

In: the study's folder and a URL. Out: Optuna's storage, which optuna-dashboard can read, and a lock for all workers on
all machines: a locked file for a journal or SQLite, an advisory lock of the server for PostgreSQL.
"""

import hashlib
import re
import shlex
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
READ_EVERY_S = 1.0
"""Seconds between two times that a worker which waits for the lock reads what others have written."""
_HERE = threading.RLock()
"""A file lock belongs to the whole process; this lock separates the threads of this process."""


class StudyStorage:
    """The storage of one study's trials.

    Args:
        folder: The study's folder, which all workers must be able to access.
        url: `sqlite:///…` or `postgresql://…`; `None` is a journal in the folder.

    Raises:
        SweepError: If the storage cannot be opened.
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
            lock: Any = _JournalLock(path)  # no subclass of Optuna's, which this file would have to import
            return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
        try:
            # The workers of one machine write to one SQLite file and wait for each other. A PostgreSQL server takes 100
            # connections by default: each process keeps one, and has a second one while it has the lock.
            engine_options: dict[str, Any] = (
                {"pool_size": 1, "max_overflow": -1} if self._is_postgresql else {"connect_args": {"timeout": 60}}
            )
            # The first worker creates the tables; a second one that created them at the same time would fail.
            with self._first_lock():
                return optuna.storages.RDBStorage(url_of_driver(self._url), engine_kwargs=engine_options)
        except Exception as error:
            fact = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise SweepError(
                f"A study's storage must be accessible, but {without_password(self._url)} is not: {fact}"
            ) from error

    def close(self) -> None:
        """Close the connections to a database; a journal has none."""
        if self._url is not None:
            self.trials.remove_session()
            self.trials.engine.dispose()

    def _catch_up(self) -> None:
        """Read the entries of a journal that others have written; a database is always read anew."""
        if self._url is None:
            self.trials.get_all_studies()

    @property
    def _is_postgresql(self) -> bool:
        """Whether a PostgreSQL server stores the trials, which then provides the lock too."""
        return self._url is not None and self._url.startswith("postgresql")

    @contextmanager
    def _first_lock(self) -> Iterator[None]:
        """The lock before the storage is open."""
        if not self._is_postgresql:
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
        """Exclude all other workers from the block; the lock is released if this process dies.

        What others wrote is read before, and while the lock is waited for: with the lock, it would keep all other
        workers waiting, which write more the longer they wait.
        """
        self._catch_up()
        with _HERE:
            if self._is_postgresql:
                with self._server_lock(self.trials.engine):
                    yield
            else:
                self._file_lock.acquire(self._catch_up, every_s=READ_EVERY_S)
                try:
                    yield
                finally:
                    self._file_lock.release()

    @contextmanager
    def _server_lock(self, engine: "Engine") -> Iterator[None]:
        import sqlalchemy

        # The number is the same on every machine. The server releases the lock when the connection ends.
        number = int.from_bytes(hashlib.sha256(self._folder.resolve().name.encode()).digest()[:7])
        # Without a transaction: one that stays open while the lock is held would keep the server from vacuuming.
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:number)"), {"number": number})
            try:
                yield
            finally:
                connection.execute(sqlalchemy.text("SELECT pg_advisory_unlock(:number)"), {"number": number})


class _JournalLock:
    """The lock that Optuna holds while it appends to a journal.

    Optuna's own lock is a file that a killed worker leaves behind, after which all others wait for half a minute. A
    line that a killed worker did not finish is cut off, since the next line would be appended to it.

    Args:
        path: The journal file.
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
        """Release the lock."""
        self._lock.release()


def url_of_driver(url: str) -> str:
    """A PostgreSQL URL with the driver that the extra `[postgres]` installs."""
    return url.replace("postgresql://", "postgresql+psycopg://", 1)


def absolute_url(url: str | None) -> str | None:
    """The URL with an absolute path, so that it means the same in every working directory."""
    scheme, mark, path = (url or "").partition("sqlite:///")
    return url if not mark or scheme else f"{mark}{Path(path).absolute()}"


def dashboard_command(folder: Path, url: str | None) -> str:
    """The command that shows a study in optuna-dashboard.

    Args:
        folder: The study's folder.
        url: URL of the storage, whose password is not shown; `None` is the journal in the folder.
    """
    return shlex.join(["optuna-dashboard", str(folder / JOURNAL_FILE) if url is None else without_password(url)])


def without_password(url: str) -> str:
    """The URL with its password replaced by `***`, to be shown."""
    shown = re.sub(r"([?&]password=)[^&]*", r"\1***", url)
    before, at, behind = shown.rpartition("@")
    scheme, slashes, login = before.partition("://")
    return f"{scheme}{slashes}{login.split(':')[0]}:***@{behind}" if at and ":" in login else shown
