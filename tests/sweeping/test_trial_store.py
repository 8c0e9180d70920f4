"""What a study's store reads, and when: a long study must not be read again for each decision."""

import threading
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import RDBStorage
from support.study_schedulers import RATES, compose, finish, make_scheduler, next_job, spec

from ptl_prefix.artifacts.file_lock import FileLock
from ptl_prefix.errors import SweepError
from ptl_prefix.sweeping import trial_store
from ptl_prefix.sweeping.proposer import Proposer
from ptl_prefix.sweeping.pruners import NoPruner
from ptl_prefix.sweeping.samplers import RandomPoints
from ptl_prefix.sweeping.scheduler import Scheduler
from ptl_prefix.sweeping.storage import StudyStorage
from ptl_prefix.sweeping.trial_store import TrialStore


def test_what_others_wrote_is_read_before_the_lock_and_while_it_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ptl_prefix.sweeping.storage.READ_EVERY_S", 0.01)
    scheduler, other = (make_scheduler(tmp_path, spec()) for _ in range(2))
    job = next_job(other)
    read = threading.Semaphore(0)
    backend = scheduler.optuna_study("")._storage._backend  # type: ignore[attr-defined]
    read_logs = backend.read_logs
    monkeypatch.setattr(backend, "read_logs", lambda since: read.release() or list(read_logs(since)))

    with FileLock(tmp_path / ".lock"):
        waiting = threading.Thread(target=scheduler.next_job)
        waiting.start()
        for _ in range(5):
            assert read.acquire(timeout=30), "it reads again and again"
        assert waiting.is_alive()
        other.heartbeat(job)  # which needs no lock
    waiting.join(30)

    assert not waiting.is_alive()
    assert [trial.number for trial in other.trials("")] == [0, 1]


def test_a_config_is_composed_without_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = False
    lock = StudyStorage.lock

    @contextmanager
    def noted_lock(self: StudyStorage) -> Any:
        nonlocal held
        with lock(self):
            held = True
            yield
            held = False

    def compose_unlocked(overrides: Any) -> dict[str, Any]:
        assert not held
        return compose(overrides)

    monkeypatch.setattr(StudyStorage, "lock", noted_lock)
    next_job(make_scheduler(tmp_path, spec(), compose=compose_unlocked))


def test_a_trial_that_has_not_changed_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = make_scheduler(tmp_path, spec(n_trials=6))
    for _ in range(5):
        finish(scheduler, next_job(scheduler), 1.0)
    job = next_job(scheduler)
    scheduler.trials("")
    read: list[int] = []
    read_trial = trial_store.read_trial

    def counted(arm: str, frozen: Any, liveness: Any) -> Any:
        read.append(frozen.number)
        return read_trial(arm, frozen, liveness)

    monkeypatch.setattr(trial_store, "read_trial", counted)
    scheduler.trials("")
    assert read == []

    make_scheduler(tmp_path, spec(n_trials=6)).report(job, 10, 1.0)  # another worker's write
    trials = scheduler.trials("")
    assert read[-1:] == [5] and trials[5].intermediate_values == {10: 1.0}


def test_a_proposal_on_a_database_reads_the_trials_that_are_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(StudyStorage(tmp_path, f"sqlite:///{tmp_path}/trials.db")) as storage:
        store, pruner = TrialStore(tmp_path, spec(n_trials=12, space=RATES), storage), NoPruner()
        proposer = Proposer(store, RandomPoints(seed=0), pruner, 90)
        scheduler = Scheduler(store, proposer, pruner, compose, None)
        sizes: list[int] = []
        get_trials = RDBStorage._get_trials

        def counted(*args: Any, **options: Any) -> Any:
            trials = get_trials(*args, **options)
            sizes.append(len(trials))
            return trials

        monkeypatch.setattr(RDBStorage, "_get_trials", counted)
        for _ in range(12):
            finish(scheduler, next_job(scheduler), 1.0)

    assert len(sizes) > 12 and max(sizes) <= 2


def test_a_study_does_not_take_the_trials_of_another_one_with_its_name(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/trials.db"

    def store(token: str, name: str = "small") -> TrialStore:
        return TrialStore(tmp_path, spec(token=token, name=name), StudyStorage(tmp_path, url))

    store("abc123").optuna_study("")
    store("abc123").optuna_study("")
    store("fff000", "other").optuna_study("")

    with pytest.raises(SweepError, match=r"another study named 'small' has its trials there; choose another"):
        store("fff000").optuna_study("")
