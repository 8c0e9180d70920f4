"""What a sweep promises when it is killed, with real processes and real kills."""

import random
import subprocess
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from command_lines import CommandLine, start

from ptl_prefix.artifacts.run_record import read_record
from ptl_prefix.commands.studies import open_study
from ptl_prefix.sweeping.trials import Trial

pytestmark = pytest.mark.slow

NUM_TRIALS = 24
NUM_KILLS = 20
STUDY = Path("outputs/sweeps/killed")


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """A controller, its host and their trials."""
    try:
        controller = psutil.Process(process.pid)
        return [controller, *controller.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def assert_gone(processes: list[psutil.Process], within_s: float = 90.0) -> None:
    """A trial may save what it has, but nobody stays."""
    _, alive = psutil.wait_procs(processes, timeout=within_s)
    assert not [one for one in alive if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def wait_until_begun(study: Path, controller: subprocess.Popen[str]) -> None:
    """Before that there is nothing to go on with."""
    while not (study / "study.yaml").exists():
        assert controller.poll() is None
        time.sleep(0.1)


def trials_of(folder: Path) -> list[Trial]:
    return open_study(folder).desk().register.trials("")


def test_killed_at_any_moment_it_ends_with_the_asked_number_of_distinct_trials(
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
    controller = start(*words, cwd=tmp_path)
    wait_until_begun(tmp_path / STUDY, controller)
    kills: Counter[str] = Counter()

    while sum(kills.values()) < NUM_KILLS and controller.poll() is None:
        time.sleep(draw.uniform(1.0, 12.0))
        members = family(controller)
        if not members:
            break
        # The controller, the host of its trials, or one of those.
        victim = members[0] if draw.random() < 0.5 else draw.choice(members)
        kind = {0: "controller", 1: "host"}.get(members.index(victim), "trial")
        victim.kill()
        kills[kind] += 1
        if kind == "controller":
            controller.communicate()
            assert_gone(members)
            controller = start("sweep", "resume", "killed", cwd=tmp_path)
    _, error = controller.communicate(timeout=600)

    folder = tmp_path / STUDY
    trials = trials_of(folder)
    states = Counter(trial.state for trial in trials)
    ended = [trial for trial in trials if trial.state in ("finished", "pruned")]
    assert controller.returncode == 0, error
    assert len(kills) == 3, kills
    assert len(ended) == NUM_TRIALS, states
    assert states["running"] == states["paused"] == states["interrupted"] == 0
    assert len({trial.overrides for trial in ended}) == NUM_TRIALS
    for trial in ended:
        record = read_record(trial.folder(folder) / "record.json")
        assert record.status == trial.state
        assert record.trial == trial.number and record.study == "killed"
        if trial.state == "finished":
            assert record.cost.steps == 30 and record.metrics["val/loss"] == trial.value


def test_two_controllers_of_one_study_share_its_trials(command_line: CommandLine, tmp_path: Path) -> None:
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
    controllers = [start(*words, cwd=tmp_path)]
    folder = tmp_path / "outputs/sweeps/shared"
    wait_until_begun(folder, controllers[0])
    controllers += [start("sweep", action, "shared", cwd=tmp_path) for action in ("resume", "worker")]

    ends = [(one.communicate(timeout=600)[1], one.returncode) for one in controllers]

    assert [code for _, code in ends] == [0, 0, 0], ends
    ended = [trial for trial in trials_of(folder) if trial.state == "finished"]
    assert len(ended) == 10 and len({trial.overrides for trial in ended}) == 10
    # Each trial was one process's: none was started again.
    assert all((trial.folder(folder) / "log.txt").read_text().count("measuring the bare") == 1 for trial in ended)
