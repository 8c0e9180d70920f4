"""The Slurm script, run by bash as a task of a job array, with stand-ins for the worker and for Slurm's commands."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.study_schedulers import spec

from ptl_prefix.commands.config.report_settings import SweepActionSettings
from ptl_prefix.commands.sweep.slurm import several_nodes_problems, slurm_problems, write_slurm_script
from ptl_prefix.commands.sweep.study_folder import Study
from ptl_prefix.commands.sweep.trial_resources import visible_device
from ptl_prefix.settings import defaults_of
from ptl_prefix.sweeping.search_space import Choice, SearchSpace

NOTHING = dict(defaults_of("sweep"))

# Logs its arguments, works until SIGTERM, then logs and exits with 143, as `sweep worker` does.
WORKER = """#!/bin/bash
trap 'sleep 0.3; echo saved >> {told}; exit {code}' TERM
echo "$@" >> {told}
for ((i = 0; i < {ticks}; i++)); do sleep 0.05; done
exit {end}
"""
SCONTROL = """#!/bin/bash
echo "scontrol $@" >> {told}
"""


@pytest.fixture
def study(tmp_path: Path) -> Study:
    space = SearchSpace({"seed": Choice(values=[1, 2], texts=["1", "2"])})
    lengths = spec(name="lengths", space=space, n_trials=2, n_jobs=4, threads=2)
    folder = tmp_path / "my studies" / "it's one"
    folder.mkdir(parents=True)
    return Study(folder, lengths, None)


def directives(script: Path) -> list[str]:
    lines = script.read_text().splitlines()
    found = [number for number, line in enumerate(lines) if line.startswith("#SBATCH ")]
    # sbatch stops reading at the first line that is neither blank nor a comment.
    assert all(line.startswith("#") for line in lines[: found[-1]])
    return [lines[number].removeprefix("#SBATCH ") for number in found]


def test_the_array_has_n_jobs_workers_and_a_signal_before_the_time_limit(study: Study) -> None:
    assert directives(write_slurm_script(study, NOTHING)) == [
        "--job-name=lengths",
        "--array=0-3",
        "--cpus-per-task=2",
        f"--output={quoted(study.folder / 'slurm-%A_%a.log')}",
        "--open-mode=append",
        "--requeue",
        "--signal=B:USR1@180",
    ]


def quoted(path: Path) -> str:
    import shlex

    return shlex.quote(str(path))


def test_options_of_the_user_come_last(study: Study) -> None:
    settings = {
        "slurm_time": "12:00:00",
        "slurm_partition": "gpu",
        "slurm_mem": "16G",
        "slurm_extra": ["--account=nlp", "--array=0-7%2"],
    }
    with_devices = replace(study, spec=replace(study.spec, devices=[0, 1]))

    options = directives(write_slurm_script(with_devices, settings))

    assert "--gpus=1" in options
    assert options[-5:] == ["--time=12:00:00", "--partition=gpu", "--mem=16G", "--account=nlp", "--array=0-7%2"]


@pytest.mark.parametrize("bad", ["account=nlp", "", "--a=b\nrm -rf ."])
def test_an_invalid_option_is_refused(bad: str) -> None:
    settings = SweepActionSettings(**{**NOTHING, "slurm_extra": ["--account=nlp", bad]})

    (problem,) = settings.problems()
    assert problem.startswith("`slurm_extra` must be options of sbatch, such as --account=nlp, but one is ")
    assert SweepActionSettings(**NOTHING).problems() == []


def test_bash_accepts_the_script_with_any_folder_name(study: Study) -> None:
    script = write_slurm_script(study, NOTHING)

    read = subprocess.run(["bash", "-n", script], capture_output=True, text=True)

    assert (read.returncode, read.stderr) == (0, "")


RANKS: dict[str, Any] = {**NOTHING, "slurm_nodes": 2, "slurm_ntasks_per_node": 4}


def with_trainer(study: Study, **trainer: int) -> Study:
    """The study, whose trials have this trainer."""
    (study.folder / "configs").mkdir()
    (study.folder / "configs/first.yaml").write_text(yaml.safe_dump({"trainer": {"devices": 1, **trainer}}))
    return study


def test_a_job_of_several_nodes_has_the_ranks_of_one_trial(study: Study) -> None:
    with_gpus = replace(study, spec=replace(study.spec, num_gpus=8.0))

    script = write_slurm_script(with_gpus, RANKS)

    options = directives(script)
    assert options[:6] == [
        "--job-name=lengths",
        "--array=0-3",
        "--nodes=2",
        "--ntasks-per-node=4",
        "--cpus-per-task=2",
        "--gpus-per-node=4",
    ]
    assert "sweep worker" in script.read_text() and "'launcher=srun --cpus-per-task=2' &" in script.read_text()


def test_nodes_and_tasks_must_be_those_of_the_trials(study: Study) -> None:
    matching = with_trainer(study, devices=4, num_nodes=2)
    packed = replace(matching, spec=replace(matching.spec, pack=2, num_gpus=1.0))

    assert slurm_problems(matching, RANKS) == []
    assert slurm_problems(matching, NOTHING) == [
        "`slurm_nodes` must be the `trainer.num_nodes` of the trials, which is 2, but is 1.",
        "`slurm_ntasks_per_node` must be given with several nodes: the `trainer.devices` of the trials, which is 4.",
    ]
    assert slurm_problems(packed, {**RANKS, "slurm_nodes": 3, "slurm_ntasks_per_node": 2}) == [
        "`slurm_nodes` must be the `trainer.num_nodes` of the trials, which is 2, but is 3.",
        "`slurm_ntasks_per_node` must be the `trainer.devices` of the trials, which is 4, but is 2.",
        "`hydra.sweeper.num_gpus` must be 0, or one for each of the 6 ranks, but is 1; resume the study with "
        "hydra.sweeper.num_gpus=6.",
        "`hydra.sweeper.pack` must be 1 for trials of several ranks, but is 2.",
    ]


@pytest.mark.parametrize("executor", ["local", "ray", "kubernetes"])
def test_only_slurm_starts_ranks_on_several_nodes(executor: str) -> None:
    two: dict[str, Any] = {"trainer": {"num_nodes": 2}}

    (problem,) = several_nodes_problems(two, executor)

    assert f"`trainer.num_nodes` must be 1 with hydra.sweeper.executor={executor}, but is 2" in problem
    assert several_nodes_problems(two, "slurm") == []
    assert several_nodes_problems({}, executor) == []


class Task:
    """The script as a task of a job array, and the log of the stand-ins."""

    def __init__(self, script: Path, told: Path, programs: Path) -> None:
        self._told = told
        environment = {
            **os.environ,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "SLURM_ARRAY_JOB_ID": "17",
            "SLURM_ARRAY_TASK_ID": "2",
        }
        self.process = subprocess.Popen(
            ["bash", script], env=environment, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def told(self) -> list[str]:
        return self._told.read_text().splitlines() if self._told.exists() else []

    def tell(self, number: signal.Signals) -> None:
        """Send a signal to the shell alone, as Slurm does with `B:`."""
        deadline = time.monotonic() + 60
        while not self.told():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.3)  # until the script, too, knows the worker that it has started
        self.process.send_signal(number)

    def end(self) -> int:
        output, _ = self.process.communicate(timeout=180)
        assert output == ""
        return self.process.returncode


Start = Callable[..., Task]


@pytest.fixture
def start(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    tasks: list[Task] = []

    def start_task(settings: dict[str, Any] = NOTHING, **worker: Any) -> Task:
        told, programs = tmp_path / "told", tmp_path / "programs"
        programs.mkdir()
        values = {"told": told, "code": 143, "ticks": 1200, "end": 0, **worker}
        for name, text in (("worker", WORKER), ("scontrol", SCONTROL)):
            (programs / name).write_text(text.format(**values))
            (programs / name).chmod(0o755)
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        monkeypatch.setattr(sys, "executable", str(programs / "worker"))
        tasks.append(Task(write_slurm_script(study, settings), told, programs))
        return tasks[-1]

    yield start_task
    for task in tasks:
        task.process.kill()
        task.process.communicate()


def test_a_worker_that_is_done_ends_its_job(start: Start, study: Study) -> None:
    task = start(ticks=1)

    assert task.end() == 0
    assert task.told() == [f"-m ptl_prefix sweep worker {study.folder.resolve()}"]


def test_a_worker_of_several_nodes_is_told_how_to_start_ranks(start: Start, study: Study) -> None:
    task = start(RANKS, ticks=1)

    assert task.end() == 0
    assert task.told() == [f"-m ptl_prefix sweep worker {study.folder.resolve()} launcher=srun --cpus-per-task=2"]


def test_at_usr1_the_trial_is_saved_and_the_job_requeued(start: Start) -> None:
    task = start()

    task.tell(signal.SIGUSR1)

    assert task.end() == 143
    assert task.told()[1:] == ["saved", "scontrol requeue 17_2"]


def test_a_job_whose_worker_is_done_at_usr1_is_not_requeued(start: Start) -> None:
    task = start(code=0)

    task.tell(signal.SIGUSR1)

    assert task.end() == 0
    assert task.told()[1:] == ["saved"]


def test_a_cancelled_job_is_saved_and_not_requeued(start: Start) -> None:
    task = start()

    task.tell(signal.SIGTERM)

    assert task.end() == 143
    assert task.told()[1:] == ["saved"]


def test_a_worker_that_fails_fails_its_job(start: Start) -> None:
    task = start(ticks=1, end=3)

    assert task.end() == 3
    assert len(task.told()) == 1


def test_sbatch_accepts_the_script(study: Study) -> None:
    if shutil.which("sbatch") is None:
        pytest.skip("needs Slurm's sbatch")
    read = subprocess.run(["sbatch", "--test-only", write_slurm_script(study, NOTHING)], capture_output=True, text=True)

    assert not re.search("[Ii]nvalid|unrecognized", read.stderr)


@pytest.mark.parametrize(
    ("device", "visible", "name"),
    [(0, None, "0"), (3, "", "3"), (0, "3", "3"), (1, "4,7", "7"), (2, "5", "5"), (0, "GPU-a1,GPU-b2", "GPU-a1")],
)
def test_a_device_is_one_of_those_that_the_cluster_gave(device: int, visible: str | None, name: str) -> None:
    assert visible_device(device, visible) == name
