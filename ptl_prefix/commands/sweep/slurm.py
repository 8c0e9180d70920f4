"""Writes a Slurm script that runs a study as a job array: each job is a worker that joins the study.

In: an existing study in a folder that every node can access, and the options of `sbatch`. Out: `slurm.sh` in the
study's folder.
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
{python} -m ptl_prefix sweep worker {folder} &
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
        settings: `slurm_time`, `slurm_partition`, `slurm_mem` and `slurm_extra` of `conf/sweep.yaml`; `None` sets none.
    """
    path = (study.folder / "slurm.sh").resolve()
    text = _SCRIPT.format(
        name=study.spec.name,
        directives="\n".join(f"#SBATCH {option}" for option in _options(study, settings or {})),
        folder=shlex.quote(str(study.folder.resolve())),
        cwd=shlex.quote(str(Path.cwd())),
        python=shlex.quote(sys.executable),
    )
    write_atomically(path, text)
    return path


def _options(study: Study, settings: Mapping[str, Any]) -> Sequence[str]:
    """The options of `sbatch`; the user's come last and win."""
    spec = study.spec
    given = {key: settings.get(f"slurm_{key}") for key in ("time", "partition", "mem")}
    return [
        f"--job-name={spec.name}",
        f"--array=0-{spec.n_jobs - 1}",
        f"--cpus-per-task={spec.threads or 1}",
        *(["--gpus=1"] if spec.devices else []),
        f"--output={shlex.quote(str(study.folder.resolve() / 'slurm-%A_%a.log'))}",
        "--open-mode=append",
        "--requeue",
        f"--signal=B:USR1@{_SIGNAL_BEFORE_LIMIT_S}",
        *(f"--{key}={value}" for key, value in given.items() if value is not None),
        *(settings.get("slurm_extra") or []),
    ]
