"""Optuna's journal in memory, which counts its operations and says how long each would have taken.

In: the writes and reads of the real `TrialStore`. Out: the real replay of Optuna's `JournalStorage`, and the seconds
and numbers of the operations. The lock of the study is the simulation's own, since it hands it out in simulated time.
"""

import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend

from benchmarks.sweep_scale.settings import NEVER, ClusterSettings
from ptl_prefix.sweeping.storage import StudyStorage


class WorkerDied(BaseException):
    """Raised in place of a write: the worker dies before it."""


class CountedJournal(BaseJournalBackend):
    """A journal in memory.

    Args:
        settings: The costs of an operation.
        now: Returns the simulated time.
    """

    def __init__(self, settings: ClusterSettings, now: Callable[[], float]) -> None:
        self._settings, self._now = settings, now
        self._draws = random.Random(settings.seed + 1)
        self._unread: list[dict[str, Any]] = []
        self.length = 0
        """Entries of the journal. Those that were read are not kept, since one storage reads for all workers."""
        self._append_free_at = 0.0
        self.counts: Counter[str] = Counter()
        self.bytes = 0
        self.spent_s = 0.0
        """Seconds of the operations since `begin`."""
        self.before_lock_s, self.locked_s = 0.0, 0.0
        """Of them, those before the lock, and those with it."""
        self.writes_left = NEVER
        """Writes until the acting worker dies."""

    def begin(self, writes_left: float = NEVER) -> None:
        """Begin to count the seconds of one worker's next operations."""
        self.spent_s, self.before_lock_s, self.locked_s, self.writes_left = 0.0, 0.0, 0.0, writes_left

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append entries, after those that others append at this time."""
        self.writes_left -= 1
        if self.writes_left < 0:
            raise WorkerDied
        for log in logs:
            line = json.dumps(log, separators=(",", ":"))
            self.bytes += len(line) + 1
            self._unread.append(json.loads(line))
            self.length += 1
        self.counts["appends"] += 1
        begins = self._now() + self.spent_s
        if self._settings.one_at_a_time:
            begins = max(begins, self._append_free_at)
        ends = begins + self._latency_s()
        self._append_free_at = max(ends, self._append_free_at)
        self.spent_s = ends - self._now()

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """The entries from a number on."""
        self.counts["reads"] += 1
        self.spent_s += self._latency_s()
        assert log_number_from == self.length - len(self._unread)
        entries, self._unread = self._unread, []
        return entries

    def _latency_s(self) -> float:
        return self._settings.latency_s * self._draws.lognormvariate(0.0, 0.7)


class SimulatedStorage(StudyStorage):
    """The storage of a simulated study.

    Args:
        folder: The study's folder, which holds the trials' frozen configs.
        journal: Where Optuna's entries are kept.
    """

    def __init__(self, folder: Path, journal: CountedJournal) -> None:
        self._journal = journal
        super().__init__(folder, None)

    def _open(self) -> Any:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        return JournalStorage(self._journal)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Nothing to wait for: the simulation runs one worker's code at a time, in the order of its own lock."""
        journal = self._journal
        journal.counts["locks"] += 1
        self._catch_up()
        began_s = journal.spent_s
        if journal.locked_s == 0.0:
            journal.before_lock_s = began_s
        yield
        journal.locked_s += journal.spent_s - began_s
