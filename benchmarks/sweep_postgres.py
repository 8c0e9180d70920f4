"""Counts what the scheduler asks of a PostgreSQL server, and measures how long 64 workers on one study take.

    python -m benchmarks.sweep_postgres                        # queries of each step, with 64 workers in turn
    python -m benchmarks.sweep_postgres --at-once 64           # 64 threads in 8 processes: seconds on the clock as well
    python -m benchmarks.sweep_postgres --at-once 64 --trial-s 30      # the same, with trials that take 15 to 45 s
    python -m benchmarks.sweep_postgres --url postgresql://optuna@db.example.org/scratch

In: a server of its own (`initdb` and `pg_ctl` must be installed), or an empty database. Out: for each step of a worker
(next job, heartbeat, report, close) the number of SQL statements and the processor time of the worker, by the trials
that the study has; they do not depend on how busy the machine is. The milliseconds on the clock of `--at-once` do; a
server of its own then waits for the disk at each commit, as one whose data matter.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy

from benchmarks.postgres_server import postgres_bin, postgres_server
from benchmarks.sweep_scale.settings import ClusterSettings, objective
from benchmarks.sweep_scale.study import make_pruner, make_spec
from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.sweeping.job import Job, Outcome
from ptl_prefix.sweeping.proposer import Proposer
from ptl_prefix.sweeping.samplers import RandomPoints
from ptl_prefix.sweeping.scheduler import Scheduler
from ptl_prefix.sweeping.storage import StudyStorage
from ptl_prefix.sweeping.trial_store import TrialStore
from ptl_prefix.sweeping.worker import next_pause_s

_THREADS = 8
_CONNECTIONS = 20
"""Connections of the server besides two of each worker."""
_STEPS = 300
_Answer = TypeVar("_Answer")


class Meter:
    """Statements and seconds of each kind of step.

    Args:
        engine: The connections whose statements are counted.
    """

    def __init__(self, engine: sqlalchemy.Engine) -> None:
        self.statements = 0
        self.entries: dict[str, list[dict[str, float]]] = defaultdict(list)
        sqlalchemy.event.listen(engine, "before_cursor_execute", self._count)

    def _count(self, *_: Any) -> None:
        self.statements += 1

    def step(self, kind: str, call: Callable[[], _Answer], size: int) -> _Answer:
        """Make a call, and keep what it took under its kind and the size of the study."""
        statements, cpu_s, began = self.statements, time.process_time(), time.perf_counter()
        answer = call()
        self.entries[kind].append(
            {
                "size": size,
                "statements": self.statements - statements,
                "cpu_ms": 1000 * (time.process_time() - cpu_s),
                "ms": 1000 * (time.perf_counter() - began),
            }
        )
        return answer

    def timed(self, kind: str, call: Callable[[], _Answer], size: int) -> _Answer:
        """Make a call beside those of other threads, whose statements and processor time are not told apart."""
        began = time.perf_counter()
        answer = call()
        self.entries[kind].append({"size": size, "ms": 1000 * (time.perf_counter() - began)})
        return answer


def make_scheduler(folder: Path, settings: ClusterSettings, storage: StudyStorage) -> Scheduler:
    """The scheduler of one process."""
    store, pruner = TrialStore(folder, make_spec(settings), storage), make_pruner(settings)
    proposer = Proposer(store, RandomPoints(seed=0), pruner, _STEPS)
    return Scheduler(store, proposer, pruner, _compose, None)


def _compose(overrides: Sequence[str]) -> dict[str, Any]:
    return {"settings": list(overrides), "trainer": {"max_steps": _STEPS}, "tracking": {"group": None}}


def work_in_turn(url: str, folder: Path, settings: ClusterSettings) -> dict[str, Any]:
    """Let all workers take a job, then close them one after another, each followed by the next job."""
    with closing(StudyStorage(folder, url)) as storage:
        meter, scheduler = Meter(storage.trials.engine), make_scheduler(folder, settings, storage)
        open_jobs: list[Job] = []
        number = 0
        while True:
            job = meter.step("next job", scheduler.next_job, number)
            if not isinstance(job, Job):
                break
            number = max(number, job.trial.number + 1)
            open_jobs.append(job)
            if len(open_jobs) == settings.workers:
                _finish(meter.step, scheduler, open_jobs.pop(0), number)
        for left in open_jobs:
            _finish(meter.step, scheduler, left, number)
        return _by_size(meter.entries, settings.trials)


def _finish(step_of: Callable[[str, Callable[[], Any], int], Any], scheduler: Scheduler, job: Job, size: int) -> None:
    step_of("heartbeat", lambda: scheduler.heartbeat(job), size)
    for step in range(100, _STEPS, 100):
        value = objective(job.trial.number, step)
        if step_of("report", partial(scheduler.report, job, step, value), size):
            step_of("close", lambda: scheduler.close(job, Outcome("paused")), size)
            return
    outcome = Outcome("finished", value=objective(job.trial.number, _STEPS), notes={"train_s": 1.0, "tokens": 1000})
    step_of("close", lambda: scheduler.close(job, outcome), size)


def _by_size(entries: dict[str, list[dict[str, float]]], trials: int) -> dict[str, Any]:
    """The medians of each kind, in four parts of the study."""
    quarter = max(trials // 4, 1)
    report: dict[str, Any] = {}
    for kind, of_kind in entries.items():
        parts: dict[int, list[dict[str, float]]] = defaultdict(list)
        for entry in of_kind:
            parts[int(entry["size"] // quarter * quarter)].append(entry)
        report[kind] = {
            str(size): {name: statistics.median(one[name] for one in part) for name in part[0] if name != "size"}
            | {"calls": len(part)}
            for size, part in sorted(parts.items())
        }
    return report


def work_at_once(url: str, folder: Path, settings: ClusterSettings, trial_s: float) -> dict[str, Any]:
    """Let processes with some threads each work on the study until it is done.

    Args:
        url: The database.
        folder: The folder of the study.
        settings: Its trials, workers and pruner.
        trial_s: The mean seconds of a trial, in which its worker sleeps. With 0 all workers always wait for the lock.
    """
    words = [sys.executable, "-m", "benchmarks.sweep_postgres", "--worker", str(folder), "--url", url]
    words += ["--trials", str(settings.trials), "--pruner", settings.pruner, "--trial-s", str(trial_s)]
    sizes = [min(_THREADS, settings.workers - first) for first in range(0, settings.workers, _THREADS)]
    began = time.monotonic()
    processes = [
        subprocess.Popen([*words, "--workers", str(size)], stdout=subprocess.PIPE, text=True) for size in sizes
    ]
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise RuntimeError("a worker failed; see above")
    entries: dict[str, list[dict[str, float]]] = defaultdict(list)
    for output in outputs:
        for kind, of_kind in json.loads(output).items():
            entries[kind] += of_kind
    return {**_by_size(entries, settings.trials), "seconds": time.monotonic() - began}


def _work(url: str, folder: Path, settings: ClusterSettings, trial_s: float) -> None:
    """Work with some threads of this process, as the workers of one machine do."""
    with closing(StudyStorage(folder, url)) as storage:
        meter, scheduler = Meter(storage.trials.engine), make_scheduler(folder, settings, storage)

        def work(_: int) -> None:
            size, waited_s = 0, 0.0
            while True:  # as `Worker.run`
                if waited_s and meter.timed("look", scheduler.must_wait, size):
                    job: Job | str = "wait"
                else:
                    job = meter.timed("next job" if size else "first job", scheduler.next_job, size)
                if isinstance(job, Job):
                    size, waited_s = max(size, job.trial.number + 1), 0.0
                    # Trials of one length would all end at the same moment, as they all start at the same one.
                    time.sleep(trial_s * random.Random(job.trial.number).uniform(0.5, 1.5))
                    _finish(meter.timed, scheduler, job, size)
                elif job == "done":
                    return
                else:
                    time.sleep(pause_s := next_pause_s(waited_s))
                    waited_s += pause_s

        with ThreadPoolExecutor(settings.workers) as threads:
            list(threads.map(work, range(settings.workers)))  # which raises the error of a thread
    print(json.dumps(meter.entries))


def main(words: Sequence[str] | None = None) -> None:
    """Measure, and print and store the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=64, help="workers that have a trial at the same time")
    parser.add_argument("--pruner", default="none", help="none, median or successive_halving")
    parser.add_argument("--at-once", type=int, help="let this many threads work at once, in processes of eight")
    parser.add_argument("--trial-s", type=float, default=0.0, help="mean seconds of a trial, with --at-once")
    parser.add_argument("--url", help="an empty database; a server of its own without it")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, default=Path("outputs/benchmarks/sweep_postgres.json"))
    given = parser.parse_args(words)
    workers = given.at_once or given.workers
    settings = ClusterSettings(
        trials=given.trials, workers=workers, pruner=given.pruner, max_steps=_STEPS, validate_every=100
    )
    if given.worker is not None:
        _work(given.url, given.worker, settings, given.trial_s)
        return
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "study"
        folder.mkdir()
        url = given.url
        if url is None:
            programs = postgres_bin()
            if programs is None:
                parser.error("needs PostgreSQL's initdb and pg_ctl, or --url with an empty database")
            server = postgres_server(
                programs, max_connections=_CONNECTIONS + 2 * workers, is_durable=given.at_once is not None
            )
            url = stack.enter_context(server)
        if given.at_once:
            report = work_at_once(url, folder, settings, given.trial_s)
        else:
            report = work_in_turn(url, folder, settings)
    asked = {"trials": given.trials, "workers": workers, "pruner": given.pruner, "trial_s": given.trial_s}
    report = {**asked, **report}
    given.json.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(given.json, json.dumps(report, indent=1))
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
