"""The workers of one command, started by an executor whose workers are played."""

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from support.study_schedulers import finish, make_scheduler, next_job, spec

from ptl_prefix.errors import SweepError
from ptl_prefix.sweeping.executor import WorkerState
from ptl_prefix.sweeping.scheduler import Scheduler
from ptl_prefix.sweeping.worker_pool import WorkerPool

Life = Sequence[WorkerState | BaseException]
"""What a worker answers each time when it is waited for; the last answer is repeated until it is stopped."""


class PlayedWorker:
    def __init__(self, life: Life, *, finishes_trials: bool) -> None:
        self._life, self._finishes_trials = list(life), finishes_trials
        self.stops: list[bool] = []

    def wait(self, timeout_s: float) -> WorkerState:
        if True in self.stops or (self.stops and not self._finishes_trials):
            return "done"
        state = self._life.pop(0) if len(self._life) > 1 else self._life[0]
        if isinstance(state, BaseException):
            raise state
        return state

    def stop(self, *, now: bool) -> None:
        self.stops.append(now)


class PlayedExecutor:
    """Plays the lives of its workers, by the workers' numbers and in the order in which each is started.

    Args:
        finishes_trials: Whether a worker ends only when it is stopped at once, as its trial has not finished.
        lives: Lives of the worker `w0`, of `w1` and so on.
    """

    def __init__(self, *, finishes_trials: bool = False, **lives: Sequence[Life]) -> None:
        self._finishes_trials = finishes_trials
        self._lives = {name: list(one) for name, one in lives.items()}
        self.started: list[tuple[int, PlayedWorker]] = []
        self.is_closed = False

    def start(self, number: int) -> PlayedWorker:
        worker = PlayedWorker(self._lives[f"w{number}"].pop(0), finishes_trials=self._finishes_trials)
        self.started.append((number, worker))
        return worker

    def close(self) -> None:
        self.is_closed = True

    def numbers(self) -> list[int]:
        return [number for number, _ in self.started]


def run(
    executor: PlayedExecutor, scheduler: Scheduler, *, num_workers: int, refresh: Callable[[], None] = lambda: None
) -> tuple[WorkerPool, list[str]]:
    lines: list[str] = []
    pool = WorkerPool(scheduler, executor, num_workers=num_workers, notify=lines.append)
    pool.run(refresh, every_s=0.0)
    assert executor.is_closed
    return pool, lines


@pytest.fixture
def scheduler(tmp_path: Path) -> Scheduler:
    return make_scheduler(tmp_path, spec())


def test_a_lost_worker_is_started_again_under_its_number(scheduler: Scheduler) -> None:
    executor = PlayedExecutor(w0=[["running", "running", "running", "done"]], w1=[["lost"], ["running", "done"]])

    _, lines = run(executor, scheduler, num_workers=2)

    assert executor.numbers() == [0, 1, 1]
    assert lines == ["Worker 1 was lost with its machine; another one resumes its trial from its checkpoint."]


def test_a_worker_that_is_lost_again_and_again_ends_the_sweep(scheduler: Scheduler) -> None:
    executor = PlayedExecutor(w0=[["running"]], w1=[["lost"]] * 20)

    with pytest.raises(SweepError, match="worker 1 was lost 6 times"):
        run(executor, scheduler, num_workers=2)

    assert executor.numbers() == [0] + [1] * 6
    assert executor.started[0][1].stops == [True]


def test_losses_while_the_study_gets_on_do_not_end_the_sweep(scheduler: Scheduler) -> None:
    executor = PlayedExecutor(w0=[["lost"]] * 10 + [["done"]])
    step = iter(range(1, 100))
    job = next_job(scheduler)

    run(executor, scheduler, num_workers=1, refresh=lambda: scheduler.report(job, next(step), 1.0))

    assert executor.numbers() == [0] * 11


def test_a_worker_that_still_waits_for_a_machine_is_stopped_when_the_study_is_done(scheduler: Scheduler) -> None:
    executor = PlayedExecutor(w0=[["running", "done"]], w1=[["running"]])

    run(executor, scheduler, num_workers=2)

    assert executor.started[1][1].stops == [False]


def test_the_first_interrupt_lets_trials_finish_and_the_second_stops_them(scheduler: Scheduler) -> None:
    executor = PlayedExecutor(w0=[["running"]], finishes_trials=True)

    pool, lines = run(executor, scheduler, num_workers=1, refresh=lambda: os.kill(os.getpid(), signal.SIGINT))

    assert executor.started[0][1].stops == [False, True], "each request is passed on once"
    assert pool.interrupted == "SIGINT"
    assert len(lines) == 1 and "press Ctrl-C again" in lines[0]


def test_sigterm_stops_running_trials_at_once_and_the_handlers_are_restored(scheduler: Scheduler) -> None:
    before = signal.getsignal(signal.SIGTERM)
    executor = PlayedExecutor(w0=[["running"]])

    pool, _ = run(executor, scheduler, num_workers=1, refresh=lambda: os.kill(os.getpid(), signal.SIGTERM))

    assert (executor.started[0][1].stops, pool.interrupted) == ([True], "SIGTERM")
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_error_of_a_worker_stops_the_others_and_is_raised(scheduler: Scheduler) -> None:
    executor = PlayedExecutor(w0=[["running"]], w1=[[SweepError("no folder")]])

    with pytest.raises(SweepError, match="no folder"):
        run(executor, scheduler, num_workers=2)

    assert executor.started[0][1].stops == [True]


def test_no_worker_is_left_where_one_cannot_be_started(scheduler: Scheduler) -> None:
    executor = PlayedExecutor(w0=[["running"]])

    with pytest.raises(KeyError, match="w1"):
        run(executor, scheduler, num_workers=2)

    assert executor.started[0][1].stops == [True]
    assert executor.is_closed


def test_a_finished_study_needs_no_worker_again(scheduler: Scheduler) -> None:
    for value in range(4):
        finish(scheduler, next_job(scheduler), float(value))
    executor = PlayedExecutor(w0=[["lost"]])

    run(executor, scheduler, num_workers=1)

    assert executor.numbers() == [0]
