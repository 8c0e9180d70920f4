"""Several processes work on one study in every kind of storage: no point twice, none lost, exactly `n_trials`."""

import importlib.util
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from support.study_schedulers import spec

from benchmarks.postgres_server import postgres_bin, postgres_server
from ptl_prefix.errors import SweepError
from ptl_prefix.sweeping.search_space import Choice, Numbers, SearchSpace
from ptl_prefix.sweeping.storage import StudyStorage, url_of_driver

pytestmark = pytest.mark.slow

WORKER = """
import json, os, signal, sys, time
from pathlib import Path
from ptl_prefix.commands.config.instantiate import build
from ptl_prefix.sweeping.job import Outcome
from ptl_prefix.sweeping.scheduler import Scheduler
from ptl_prefix.sweeping.proposer import Proposer
from ptl_prefix.sweeping.study_spec import StudySpec
from ptl_prefix.sweeping.trial_store import TrialStore
from ptl_prefix.sweeping.storage import StudyStorage

folder, url, dies_at = Path(sys.argv[1]), sys.argv[2] or None, int(sys.argv[3])
spec = StudySpec.read(folder)
compose = lambda overrides: {"trainer": {"max_steps": 5}, "tracking": {"group": None}, "overrides": list(overrides)}
print("ready", flush=True)
sys.stdin.readline()
storage = StudyStorage(folder, url)
store = TrialStore(folder, spec, storage)
pruner = build(spec.pruner)
scheduler = Scheduler(store, Proposer(store, build(spec.sampler), pruner, 5), pruner, compose, None)
count = 0
while (job := scheduler.next_job()) != "done":
    if job == "wait":
        time.sleep(0.05)
        continue
    print(json.dumps([job.trial.number, job.origin, list(job.trial.overrides)]), flush=True)
    count += 1
    if count == dies_at:
        os.kill(os.getpid(), signal.SIGKILL)
    scheduler.report(job, 3, 1.0)
    scheduler.close(job, Outcome("finished", value=float(job.trial.number), notes={"train_s": 1.0, "tokens": 10}))
storage.close()
"""

HOLD = """
import sys, time
from pathlib import Path
from ptl_prefix.sweeping.storage import StudyStorage
with StudyStorage(Path(sys.argv[1]), sys.argv[2]).lock():
    print("held", flush=True)
    time.sleep(60)
"""

needs_postgres = [
    pytest.mark.skipif(postgres_bin() is None, reason="needs PostgreSQL's initdb and pg_ctl"),
    pytest.mark.skipif(importlib.util.find_spec("psycopg") is None, reason="needs psycopg: pip install .[postgres]"),
]


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    programs = postgres_bin()
    assert programs is not None
    with postgres_server(programs) as url:
        yield url


@pytest.fixture(params=["journal", "sqlite", pytest.param("postgresql", marks=needs_postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    """A new storage."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres"))
    return f"sqlite:///{tmp_path}/trials.db" if request.param == "sqlite" else None


GRID = {
    "a": Choice(values=[1, 2, 3, 4], texts=["1", "2", "3", "4"]),
    "b": Choice(values=["x", "y", "z"], texts=["x", "y", "z"]),
    "c": Numbers(low=0, high=1, step=1, is_int=True),
}
LINE = {"lr": Numbers(low=1e-5, high=1e-2, log=True), "b": Choice(values=["x", "y"], texts=["x", "y"])}


def write_study(folder: Path, space: dict[str, Choice | Numbers], trials: int, sampler: str) -> None:
    options = {"Tpe": {"seed": 0, "n_startup_trials": 5, "multivariate": False}}.get(sampler, {"seed": 0})
    study = spec(
        name=folder.name,
        space=SearchSpace(space),
        n_trials=trials,
        sampler={"_target_": f"ptl_prefix.sweeping.samplers.{sampler}", **options},
        pruner={"_target_": "ptl_prefix.sweeping.pruners.NoPruner"},
    )
    folder.mkdir(exist_ok=True)
    study.write(folder)


def start(folder: Path, url: str | None, dies_at: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", WORKER, str(folder), url or "", str(dies_at)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def written_down(folder: Path, url: str | None) -> list[optuna.trial.FrozenTrial]:
    with closing(StudyStorage(folder, url)) as storage:
        return optuna.load_study(study_name=folder.name, storage=storage.trials).trials


@pytest.mark.parametrize(
    ("space", "trials", "sampler"),
    [(GRID, 24, "Exhaustive"), (GRID, 24, "RandomPoints"), (LINE, 18, "Tpe")],
    ids=["every point", "drawn from few", "an interval"],
)
def test_a_study_has_exactly_n_trials_distinct_points_although_a_process_is_killed(
    tmp_path: Path, url: str | None, space: dict[str, Choice | Numbers], trials: int, sampler: str
) -> None:
    folder = tmp_path / f"study-{sampler}"  # one database holds several studies
    write_study(folder, space, trials, sampler)
    workers = [start(folder, url, dies_at) for dies_at in (0, 0, 0, 3)]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    said = [worker.communicate(timeout=300) for worker in workers]

    assert [worker.returncode for worker in workers[:3]] == [0, 0, 0], [error for _, error in said]
    assert workers[3].returncode in (-signal.SIGKILL, 0)  # others may have taken everything before its third
    jobs = [json.loads(line) for out, _ in said for line in out.splitlines()]
    new = [number for number, origin, _ in jobs if origin == "new"]
    assert max(Counter(new).values()) == 1
    # The trial of the killed process was handed out once more.
    again = [number for number, origin, _ in jobs if origin == "interrupted"]
    assert len(again) == (workers[3].returncode != 0)

    trials_of_study = written_down(folder, url)
    finished = [trial for trial in trials_of_study if trial.state.name == "COMPLETE"]
    assert len(finished) == trials
    assert len({tuple(trial.user_attrs["overrides"]) for trial in finished}) == trials
    assert all(trial.state.is_finished() for trial in trials_of_study)
    assert all("set_aside" in trial.user_attrs for trial in trials_of_study if trial.state.name == "FAIL")
    assert all(trial.intermediate_values == {3: 1.0} for trial in finished)
    configs = sorted(folder.glob("*/config.yaml"))
    assert len(configs) == trials


@pytest.mark.parametrize("url", [pytest.param("postgresql", marks=needs_postgres)], indirect=True)
def test_the_server_releases_the_lock_of_a_killed_process(tmp_path: Path, url: str) -> None:
    words = [sys.executable, "-c", HOLD, str(tmp_path), url]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        waiting = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert waiting.stdout is not None
        time.sleep(1.0)
        assert waiting.poll() is None

        holder.send_signal(signal.SIGKILL)

        assert waiting.stdout.readline() == "held\n"
        waiting.kill()
        waiting.communicate()


@pytest.mark.parametrize("url", [pytest.param("postgresql", marks=needs_postgres)], indirect=True)
def test_an_unreachable_server_is_named_without_the_password(tmp_path: Path, url: str) -> None:
    with pytest.raises(SweepError) as refusal:
        StudyStorage(tmp_path, f"postgresql://me:secret@/postgres?host={tmp_path}&connect_timeout=5")

    assert "me:***@/postgres" in str(refusal.value)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize("url", [pytest.param("postgresql", marks=needs_postgres)], indirect=True)
def test_a_process_keeps_one_connection_and_waits_for_the_lock_with_it(tmp_path: Path, url: str) -> None:
    """64 workers that wait must fit into the 100 connections that a server takes by default."""
    engine = sqlalchemy.create_engine(url_of_driver(url), poolclass=sqlalchemy.NullPool)
    query = sqlalchemy.text("SELECT wait_event FROM pg_stat_activity WHERE application_name = 'counted'")

    def connections() -> list[str | None]:
        with engine.connect() as connection:
            return list(connection.execute(query).scalars())

    with (
        closing(StudyStorage(tmp_path, f"{url}&application_name=counted")) as storage,
        subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path), url], stdout=subprocess.PIPE, text=True) as holder,
        ThreadPoolExecutor(1) as threads,
    ):
        with storage.lock():
            storage.trials.get_all_studies()
            assert len(connections()) == 2
        assert len(connections()) == 1
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"

        waits = threads.submit(lambda: _lock_once(storage))
        deadline = time.monotonic() + 120
        while "advisory" not in connections():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert connections() == ["advisory"]
        holder.kill()
        waits.result(120)


def _lock_once(storage: StudyStorage) -> None:
    with storage.lock():
        pass
