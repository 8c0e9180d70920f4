"""Sweeps on a real Ray cluster of this machine: its nodes are processes, one of which is killed."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from support.command_lines import CommandLine, run
from support.ray_clusters import ActorForTests, add_node, ray_cluster
from support.study_schedulers import make_scheduler, spec

from ptl_prefix.artifacts.event_log import read_events
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import read_record
from ptl_prefix.commands.sweep.study_folder import open_study
from ptl_prefix.errors import SweepError
from ptl_prefix.sweeping.ray_executor import RayExecutor, RayWorker
from ptl_prefix.sweeping.trial import Trial
from ptl_prefix.sweeping.worker_pool import WorkerPool

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'ptl-prefix[ray]'"),
]

STUDY = Path("outputs/sweeps/lost")
LONG = 200
"""Steps of the trial in whose middle its node is lost; the others are short."""


@pytest.fixture(scope="module")
def cluster() -> Iterator["Cluster"]:
    """Two nodes of one CPU each, beside the one to which drivers connect, which runs no worker."""
    with ray_cluster(num_cpus=0) as cluster:
        add_node(cluster, num_cpus=1)
        add_node(cluster, num_cpus=1)
        yield cluster


def ended(worker: RayWorker) -> str:
    deadline = time.monotonic() + 240
    while (state := worker.wait(0.2)) == "running":
        assert time.monotonic() < deadline
    return state


def test_workers_end_when_they_are_asked_to_fail_or_are_lost(cluster: "Cluster", tmp_path: Path) -> None:
    lines: list[str] = []

    def executor(end: str, num_gpus: float = 0.0) -> RayExecutor:
        lines.clear()
        arguments = {"address": cluster.address, "num_cpus": 1.0, "num_gpus": num_gpus, "notify": lines.append}
        return RayExecutor(ActorForTests, {"end": end}, **arguments)  # type: ignore[arg-type]

    with_error = executor("error")
    with pytest.raises(SweepError, match="There is no such folder"):
        ended(with_error.start(0))
    with_error.close()

    killed = executor("killed")
    assert ended(killed.start(0)) == "lost"
    assert [line for line in lines if line.startswith("Ray: ")], "the reason is shown"
    killed.close()

    unfit = executor("unfit")
    with pytest.raises(SweepError, match=r"must be able to start workers.*no such package"):
        ended(unfit.start(0))
    unfit.close()

    # The cluster has no GPU: the worker waits, until it is stopped.
    waiting = executor("asked", num_gpus=1.0)
    worker = waiting.start(0)
    assert worker.wait(0.5) == "running"
    worker.stop(now=False)
    assert worker.wait(0.0) == "done"
    (line,) = lines
    assert "No node of the Ray cluster has 1 CPUs and 1 GPUs now" in line
    waiting.close()

    # Ctrl-C, once its workers run.
    asked = executor("asked")
    pool = WorkerPool(make_scheduler(tmp_path, spec()), asked, num_workers=2, notify=lines.append)
    pool.run(lambda: os.kill(os.getpid(), signal.SIGINT) if lines.count("started") == 2 else None, every_s=0.2)
    assert pool.interrupted == "SIGINT"
    assert lines[:2] == ["started", "started"]
    assert lines.count("stopped, now=False") == 2, "a worker that is stopped sends its last lines"


def grid(command_line: CommandLine) -> list[str]:
    settings = [word for word in command_line.small if not word.startswith(("trainer.max_steps", "trainer.val_check"))]
    return [
        *("train", "-m", *settings, "evaluation.num_examples=2", "evaluation.compare_bare=false", "tracking=none"),
        *("trainer.val_check_interval=10", f"trainer.max_steps=10,20,{LONG}"),
        *("hydra.sweeper.study_name=lost", "hydra.sweeper.n_jobs=2", "hydra.sweeper.threads=1"),
    ]


def trials_of(work: Path) -> list[Trial]:
    return open_study(work / STUDY).scheduler().trials("")


def wait_for_the_long_trial(work: Path, sweep: subprocess.Popen[str]) -> Trial:
    """The long trial, as soon as it has a checkpoint."""
    deadline = time.monotonic() + 900
    while True:
        assert sweep.poll() is None, sweep.communicate()
        assert time.monotonic() < deadline
        if (work / STUDY / "study.yaml").exists():
            long = [trial for trial in trials_of(work) if trial.params.get("trainer.max_steps") == LONG]
            if long and RunFolder(long[0].folder(work / STUDY)).last.exists():
                return long[0]
        time.sleep(0.1)


def test_a_sweep_that_loses_a_node_ends_as_it_does_on_one_machine(
    command_line: CommandLine, cluster: "Cluster", tmp_path: Path
) -> None:
    here, there = tmp_path / "one machine", tmp_path / "cluster"
    here.mkdir()
    there.mkdir()
    on_ray = ["hydra.sweeper.executor=ray", f"hydra.sweeper.ray_address={cluster.address}"]
    words = [sys.executable, "-m", "ptl_prefix", *grid(command_line), *on_ray]
    # Without `-W error`: Ray has files that Python warns of when it compiles them.
    sweep = subprocess.Popen(words, cwd=there, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    trial = wait_for_the_long_trial(there, sweep)

    raylet = psutil.Process(trial.notes["owner"]["pid"]).ppid()
    (node,) = [one for one in cluster.worker_nodes if one.all_processes["raylet"][0].process.pid == raylet]
    cluster.remove_node(node, allow_graceful=False)

    _, error = sweep.communicate(timeout=900)
    assert sweep.returncode == 0, error
    assert "was lost with its machine; another one resumes its trial from its checkpoint." in error
    events = read_events(RunFolder(trial.folder(there / STUDY)).events)
    resumed_at = [event["step"] for event in events if event["kind"] == "resumed"]
    assert resumed_at and 0 < resumed_at[0] < LONG, "its checkpoint was used"
    alone = run(*grid(command_line), cwd=here)
    assert alone.returncode == 0, alone.stderr
    found, expected = trials_of(there), trials_of(here)
    assert [one.state for one in found] == ["finished"] * 3
    assert len({one.overrides for one in found}) == 3
    assert {one.overrides: one.value for one in found} == {one.overrides: one.value for one in expected}
    assert read_record(trial.folder(there / STUDY) / "record.json").cost.steps == LONG
