"""Writes a Slurm script that runs a study as a job array: each job is a worker that joins the study.

In: an existing study in a folder that every node can access, and the options of `sbatch`. Out: `slurm.sh` in the
study's folder. A job of several nodes runs one trial after another, each with ranks on all of its nodes: the worker is
on the first node, and starts the ranks by srun.
"""

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.commands.sweep.study_folder import Study

_SCRIPT = """#!/bin/bash
# Workers of the study {name}: `sbatch slurm.sh`. Any number may run at once, be killed and be submitted again.
{directives}
set -u
cd {cwd} || exit 1
requeue=no worker=
# Slurm sends USR1 before the time limit: the trial is stopped with a checkpoint, and the job is requeued.
trap 'requeue=yes; kill -TERM "$worker" 2>/dev/null' USR1
# A cancelled job is not requeued, and a preempted one is requeued by Slurm itself.
trap 'kill -TERM "$worker" 2>/dev/null' TERM INT
{python} -m ptl_prefix sweep worker {folder}{launcher} &
worker=$!
# A trap ends `wait`, but not the worker.
while wait "$worker"; code=$?; [ "$code" -ge 128 ] && kill -0 "$worker" 2>/dev/null; do :; done
if [ "$requeue" = yes ] && [ "$code" -ne 0 ]; then
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
fi
exit "$code"
"""
_SIGNAL_BEFORE_LIMIT_S = 180
"""A worker may take two minutes to stop a trial, and Slurm may send the signal up to a minute early or late."""


def write_slurm_script(study: Study, settings: Mapping[str, Any] | None = None) -> Path:
    """Write the script into the study's folder.

    Args:
        study: The study.
        settings: The settings of `conf/sweep.yaml` whose names begin with `slurm_`; `None` sets none.
    """
    settings = settings or {}
    # Slurm's srun no longer takes the CPUs of a task from the job.
    launcher = f"launcher=srun --cpus-per-task={int(study.spec.cpus_of_worker)}"
    path = (study.folder / "slurm.sh").resolve()
    text = _SCRIPT.format(
        name=study.spec.name,
        directives="\n".join(f"#SBATCH {option}" for option in _options(study, settings)),
        launcher=f" {shlex.quote(launcher)}" if settings.get("slurm_ntasks_per_node") else "",
        folder=shlex.quote(str(study.folder.resolve())),
        cwd=shlex.quote(str(Path.cwd())),
        python=shlex.quote(sys.executable),
    )
    write_atomically(path, text)
    return path


def slurm_problems(study: Study, settings: Mapping[str, Any]) -> list[str]:
    """What keeps a study's trials from running in jobs of these nodes and tasks, one sentence each."""
    trainer = study.first_config()["trainer"]
    nodes, tasks = settings["slurm_nodes"], settings["slurm_ntasks_per_node"]
    num_nodes, devices = int(trainer.get("num_nodes") or 1), trainer.get("devices") or 1
    problems = []
    if nodes != num_nodes:
        problems.append(
            f"`slurm_nodes` must be the `trainer.num_nodes` of the trials, which is {num_nodes}, but is {nodes}."
        )
    if tasks is None and (nodes > 1 or num_nodes > 1):
        problems.append(
            "`slurm_ntasks_per_node` must be given with several nodes: the `trainer.devices` of the trials, which is "
            f"{devices}."
        )
    if tasks is not None:
        problems += _rank_problems(study, nodes, tasks, devices)
    return problems


def _rank_problems(study: Study, nodes: int, tasks: int, devices: Any) -> list[str]:
    """Problems of trials whose ranks srun starts."""
    spec, problems = study.spec, []
    if tasks != devices:
        problems.append(
            f"`slurm_ntasks_per_node` must be the `trainer.devices` of the trials, which is {devices}, but is {tasks}."
        )
    if spec.gpus_of_worker not in (0, nodes * tasks):
        problems.append(
            f"`hydra.sweeper.num_gpus` must be 0, or one for each of the {nodes * tasks} ranks, but is "
            f"{spec.gpus_of_worker:g}; resume the study with hydra.sweeper.num_gpus={nodes * tasks}."
        )
    if spec.pack > 1:
        problems.append(f"`hydra.sweeper.pack` must be 1 for trials of several ranks, but is {spec.pack}.")
    return problems


def several_nodes_problems(config: Mapping[str, Any], executor: str) -> list[str]:
    """Why trials on several nodes cannot run with an executor; only Slurm starts ranks on several."""
    num_nodes = int(config.get("trainer", {}).get("num_nodes") or 1)
    if num_nodes == 1 or executor == "slurm":
        return []
    return [
        f"`trainer.num_nodes` must be 1 with hydra.sweeper.executor={executor}, but is {num_nodes}; trials on several "
        "nodes need executor=slurm and `ptl-prefix sweep export`."
    ]


def _options(study: Study, settings: Mapping[str, Any]) -> Sequence[str]:
    """The options of `sbatch`; the user's come last and win."""
    spec = study.spec
    num_gpus, tasks = int(spec.gpus_of_worker), settings.get("slurm_ntasks_per_node")
    # Of several nodes each has as many as ranks, wherever Slurm would put them otherwise.
    gpus = [] if not num_gpus else [f"--gpus={num_gpus}"] if tasks is None else [f"--gpus-per-node={tasks}"]
    given = {key: settings.get(f"slurm_{key}") for key in ("time", "partition", "mem")}
    return [
        f"--job-name={spec.name}",
        f"--array=0-{spec.n_jobs - 1}",
        *([] if tasks is None else [f"--nodes={settings['slurm_nodes']}", f"--ntasks-per-node={tasks}"]),
        f"--cpus-per-task={int(spec.cpus_of_worker)}",
        *gpus,
        f"--output={shlex.quote(str(study.folder.resolve() / 'slurm-%A_%a.log'))}",
        "--open-mode=append",
        "--requeue",
        f"--signal=B:USR1@{_SIGNAL_BEFORE_LIMIT_S}",
        *(f"--{key}={value}" for key, value in given.items() if value is not None),
        *(settings.get("slurm_extra") or []),
    ]
