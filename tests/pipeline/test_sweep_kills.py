"""A sweep survives kills of real processes."""

import contextlib
import itertools
import random
import subprocess
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from support.command_lines import CommandLine, start

from ptl_prefix.artifacts.run_record import read_record
from ptl_prefix.commands.sweep.study_folder import open_study
from ptl_prefix.sweeping.trial import Trial

pytestmark = pytest.mark.slow

NUM_TRIALS = 14
NUM_KILLS = 9
STUDY = Path("outputs/sweeps/killed")
KINDS = ("pool", "server", "checker", "trial")
"""Process kinds by their index in `family`; the fourth and later ones are trials."""


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """A pool, its trial server, the fork of it that checks configs, and the trials."""
    try:
        pool = psutil.Process(process.pid)
        return [pool, *pool.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def family_with(kind: str, pool: subprocess.Popen[str]) -> list[psutil.Process]:
    """The family once it has a process of this kind; empty if the pool ends before."""
    while pool.poll() is None:
        members = family(pool)
        if len(members) > KINDS.index(kind):
            return members
        time.sleep(0.05)
    return []


def kill(process: psutil.Process) -> psutil.Process:
    """Send SIGKILL, unless the process has just ended by itself."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()
    return process


def assert_gone(processes: list[psutil.Process], within_s: float = 90.0) -> None:
    """A trial may take time to save a checkpoint, but no process may remain."""
    _, alive = psutil.wait_procs(processes, timeout=within_s)
    assert not [one for one in alive if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def wait_until_begun(study: Path, pool: subprocess.Popen[str]) -> None:
    """Before that there is no study to resume."""
    while not (study / "study.yaml").exists():
        assert pool.poll() is None
        time.sleep(0.1)


def wait_for_a_moment(study: Path, seconds: float, num_kills: int) -> None:
    """Wait, but less long if trials end so fast that none would be left to kill."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and len(list(study.glob("*/record.json"))) <= num_kills:
        time.sleep(0.02)


def trials_of(folder: Path) -> list[Trial]:
    return open_study(folder).scheduler().trials("")


def test_a_sweep_that_is_killed_at_any_moment_ends_with_n_trials_distinct_trials(
    command_line: CommandLine, tmp_path: Path
) -> None:
    search = [
        "hydra/sweeper=optuna",
        "hydra/sweeper/pruner=successive_halving",
        "hydra.sweeper.pruner.min_steps=4",
        "hydra.sweeper.study_name=killed",
        f"hydra.sweeper.n_trials={NUM_TRIALS}",
        "hydra.sweeper.n_jobs=2",
        "method.prefix_length=range(1,7)",
        "optimizer.lr=tag(log,interval(1e-4,1e-1))",
    ]
    words = ["train", "-m", *command_line.small, "trainer.max_steps=30", "evaluation.num_examples=2", *search]
    draw = random.Random(0)
    pool = start(*words, cwd=tmp_path)
    wait_until_begun(tmp_path / STUDY, pool)
    num_kills = 0
    for kind in itertools.islice(itertools.cycle(("pool", "trial", "server")), NUM_KILLS):
        members = family_with(kind, pool)
        wait_for_a_moment(tmp_path / STUDY, draw.uniform(0.0, 3.0), num_kills)
        if not members or pool.poll() is not None:
            break
        psutil.wait_procs([kill(members[KINDS.index(kind)])], timeout=180)
        num_kills += 1
        if kind == "pool":
            pool.communicate()
            assert_gone(members)
            pool = start("sweep", "resume", "killed", cwd=tmp_path)
    _, error = pool.communicate(timeout=600)

    folder = tmp_path / STUDY
    trials = trials_of(folder)
    states = Counter(trial.state for trial in trials)
    ended = [trial for trial in trials if trial.state in ("finished", "pruned")]
    # A trial that was killed three times has failed, so the exit code is 1, and another trial took its place.
    assert pool.returncode == (1 if states["failed"] else 0), error
    assert num_kills == NUM_KILLS, "it ended before it could be killed so often"
    assert {trial.notes.get("failure") for trial in trials if trial.state == "failed"} <= {"killed"}
    assert len(ended) == NUM_TRIALS, states
    assert states["running"] == states["paused"] == states["interrupted"] == 0
    assert len({trial.overrides for trial in ended}) == NUM_TRIALS
    for trial in ended:
        record = read_record(trial.folder(folder) / "record.json")
        assert record.status == trial.state
        assert record.trial == trial.number and record.study == "killed"
        if trial.state == "finished":
            assert record.cost.steps == 30 and record.metrics["val/loss"] == trial.value


def test_several_commands_on_one_study_share_its_trials(command_line: CommandLine, tmp_path: Path) -> None:
    words = [
        "train",
        "-m",
        *command_line.small,
        "evaluation.num_examples=2",
        "hydra/sweeper=optuna",
        "hydra.sweeper.study_name=shared",
        "hydra.sweeper.n_trials=10",
        "method.prefix_length=range(1,30)",
    ]
    pools = [start(*words, cwd=tmp_path)]
    folder = tmp_path / "outputs/sweeps/shared"
    wait_until_begun(folder, pools[0])
    pools += [start("sweep", action, "shared", cwd=tmp_path) for action in ("resume", "worker")]

    ends = [(one.communicate(timeout=600)[1], one.returncode) for one in pools]

    assert [code for _, code in ends] == [0, 0, 0], ends
    ended = [trial for trial in trials_of(folder) if trial.state == "finished"]
    assert len(ended) == 10 and len({trial.overrides for trial in ended}) == 10
    # No trial was started by two processes.
    assert all((trial.folder(folder) / "log.txt").read_text().count("evaluating the bare") == 1 for trial in ended)
