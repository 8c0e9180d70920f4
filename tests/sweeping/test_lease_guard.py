"""A trial whose worker cannot send heartbeats is stopped before another worker may take it."""

import itertools
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support.played_trials import PlayedProcess, PlayedServer, validates
from support.study_schedulers import make_scheduler, next_job, spec

from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.sweeping import lease_guard, worker
from ptl_prefix.sweeping.lease_guard import KILL_S, STOP_S, LeaseGuard
from ptl_prefix.sweeping.liveness import HEARTBEAT_S, TIMEOUT_S, Liveness
from ptl_prefix.sweeping.scheduler import Scheduler
from ptl_prefix.sweeping.worker import Worker, next_pause_s


class Signalled:
    """Stands for a trial's process."""

    def __init__(self) -> None:
        self.signals: list[str] = []

    def signal(self, name: str) -> None:
        self.signals.append(name)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"STOP_S": 0.3, "KILL_S": 0.6, "_POLL_S": 0.01}.items():
        monkeypatch.setattr(lease_guard, name, seconds)


def test_the_trial_has_ended_before_its_worker_counts_as_dead() -> None:
    assert HEARTBEAT_S < STOP_S < KILL_S < TIMEOUT_S


def wait_for(signals: list[str], number: int) -> None:
    deadline = time.monotonic() + 30
    while len(signals) < number:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_without_heartbeats_the_process_is_asked_to_stop_once_and_then_killed(quick: None) -> None:
    process: Any = Signalled()
    with LeaseGuard(process, time.monotonic()) as guard:
        wait_for(process.signals, 2)

    assert process.signals[:2] == ["SIGTERM", "SIGKILL"]
    assert guard.expired


def test_a_heartbeat_that_took_long_counts_from_when_it_was_sent(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_guard, "STOP_S", 100.0)
    monkeypatch.setattr(lease_guard, "KILL_S", 1e6)
    process: Any = Signalled()
    with LeaseGuard(process, time.monotonic() + 1000) as guard:
        guard.renew(time.monotonic() - 150)
        wait_for(process.signals, 1)

    assert process.signals == ["SIGTERM"]


def test_heartbeats_keep_the_process(quick: None) -> None:
    process: Any = Signalled()
    with LeaseGuard(process, time.monotonic() + 1000) as guard:
        time.sleep(0.1)

    assert process.signals == [] and not guard.expired


def test_a_trial_whose_storage_hangs_is_stopped_and_resumed(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = make_scheduler(tmp_path, spec(n_trials=1))
    monkeypatch.setattr(worker, "HEARTBEAT_S", 0.0)
    heartbeat, processes = scheduler.heartbeat, []

    def hangs(job: Any) -> Any:
        if len(processes) == 1:
            wait_for(processes[0].signals, 1)
        return heartbeat(job)

    def play(folder: RunFolder, process: PlayedProcess) -> int:
        if process not in processes:
            processes.append(process)
        return validates(2.0, 1.0)(folder, process)

    monkeypatch.setattr(scheduler, "heartbeat", hangs)
    Worker(scheduler, PlayedServer(play), threads=1, device=None, notify=lambda _: None).run()  # type: ignore[arg-type]

    (trial,) = scheduler.trials("")
    assert processes[0].signals[0] == "SIGTERM" and len(processes) == 2
    assert trial.state == "finished" and trial.notes.get("attempts", 0) == 0


def on(machine: str, folder: Path, clock: list[float]) -> Scheduler:
    liveness = Liveness(clock=lambda: clock[0], machine=lambda: machine, start_time=lambda pid: 0.0)
    return make_scheduler(folder, spec(n_trials=1), liveness=liveness)


def test_a_worker_whose_trial_was_taken_stops_it_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    here, away = on("here", tmp_path, clock), on("away", tmp_path, clock)
    monkeypatch.setattr(worker, "HEARTBEAT_S", 0.0)
    lines: list[str] = []
    signals: list[list[str]] = []
    taken = threading.Event()

    def play(folder: RunFolder, process: PlayedProcess) -> int:
        if not taken.is_set():
            clock[0] = 100.0
            job = next_job(here)
            assert job.trial.number == 0
            taken.set()
            lone.stopping.set()
        signals.append(process.signals)
        return validates(*[1.0] * 50)(folder, process)

    lone = Worker(away, PlayedServer(play), threads=1, device=None, notify=lines.append)  # type: ignore[arg-type]
    lone.run()

    assert signals[-1] == ["SIGTERM"]
    assert len(lines) == 1 and "another worker has taken this trial" in lines[0]
    assert [trial.state for trial in here.trials("")] == ["running"]


def test_a_waiting_worker_asks_less_and_less_often() -> None:
    waited, pauses = 0.0, []
    while waited < 3600:
        pauses.append(next_pause_s(waited))
        waited += pauses[-1]

    assert pauses[:2] == [0.5, 0.5] and max(pauses) == 60.0
    assert all(later >= earlier for earlier, later in itertools.pairwise(pauses))
    assert len(pauses) < 80


def test_all_that_a_worker_has_waited_counts_until_it_gets_a_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = make_scheduler(tmp_path, spec(n_trials=1))
    answers: list[Any] = ["wait", "wait", "wait", next_job(scheduler), "wait", "done"]
    waited: list[float] = []
    monkeypatch.setattr(scheduler, "next_job", lambda: answers.pop(0))
    monkeypatch.setattr(scheduler, "must_wait", lambda: False)
    monkeypatch.setattr(worker, "next_pause_s", lambda waited_s: (waited.append(waited_s), 0.001)[1])

    Worker(scheduler, PlayedServer(validates(1.0)), threads=1, device=None, notify=lambda _: None).run()  # type: ignore[arg-type]

    assert waited == pytest.approx([0.0, 0.001, 0.002, 0.0])


def test_a_worker_that_has_waited_looks_without_the_lock_before_it_asks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = make_scheduler(tmp_path, spec(n_trials=1))
    answers, looks = ["wait", "done"], [True, True, False]
    asked: list[str] = []
    monkeypatch.setattr(scheduler, "next_job", lambda: (asked.append("job"), answers.pop(0))[1])
    monkeypatch.setattr(scheduler, "must_wait", lambda: (asked.append("look"), looks.pop(0))[1])
    monkeypatch.setattr(worker, "next_pause_s", lambda waited_s: 0.001)

    Worker(scheduler, PlayedServer(validates(1.0)), threads=1, device=None, notify=lambda _: None).run()  # type: ignore[arg-type]

    assert asked == ["job", "look", "look", "look", "job"]


def test_a_worker_that_waits_asks_at_once_when_another_one_knows_that_the_study_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = make_scheduler(tmp_path, spec(n_trials=1))
    answers: list[Any] = ["wait", "done"]
    monkeypatch.setattr(scheduler, "next_job", lambda: answers.pop(0))
    monkeypatch.setattr(worker, "next_pause_s", lambda waited_s: 600.0)
    waiting = Worker(scheduler, PlayedServer(validates(1.0)), threads=1, device=None, notify=lambda _: None)  # type: ignore[arg-type]
    thread = threading.Thread(target=waiting.run)
    thread.start()

    waiting.study_is_done.set()

    thread.join(30)
    assert not thread.is_alive() and answers == []
