"""A study as a job array of Slurm: each job is a worker that joins it.

In: a study that has begun, in a folder that every node sees, and what the cluster wants to be told. Out: a script for
`sbatch`.
"""

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.commands.sweep.study_folder import Study

_SCRIPT = """#!/bin/bash
# Workers of the study {name}: `sbatch slurm.sh`. Any number of them may run at once, be killed, and be sent again.
{directives}
set -u
cd {cwd} || exit 1
again=no worker=
# Slurm's notice that the time is nearly over: what runs is stopped and saved, and the job is queued again.
trap 'again=yes; kill -TERM "$worker" 2>/dev/null' USR1
# A job that is cancelled is not, and one that is preempted is queued by Slurm itself.
trap 'kill -TERM "$worker" 2>/dev/null' TERM INT
{python} -m ptl_prefix sweep worker {folder} &
worker=$!
# A trap ends `wait`, but not what is waited for.
while wait "$worker"; code=$?; [ "$code" -ge 128 ] && kill -0 "$worker" 2>/dev/null; do :; done
if [ "$again" = yes ] && [ "$code" -ne 0 ]; then
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
fi
exit "$code"
"""
_NOTICE_S = 180
"""A worker may take two minutes to stop a trial, and Slurm may tell it a minute early or late."""


def write_slurm_script(study: Study, settings: Mapping[str, Any] | None = None) -> Path:
    """Write the script into the study's folder.

    Args:
        study: Which.
        settings: `slurm_time`, `slurm_partition`, `slurm_mem` and `slurm_extra`, as `conf/sweep.yaml` has them.
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
    """What `sbatch` is told; the last word is the user's."""
    spec = study.spec
    chosen = {key: settings.get(f"slurm_{key}") for key in ("time", "partition", "mem")}
    return [
        f"--job-name={spec.name}",
        f"--array=0-{spec.workers - 1}",
        f"--cpus-per-task={spec.threads or 1}",
        *(["--gpus=1"] if spec.devices else []),
        f"--output={shlex.quote(str(study.folder.resolve() / 'slurm-%A_%a.log'))}",
        "--open-mode=append",
        "--requeue",
        f"--signal=B:USR1@{_NOTICE_S}",
        *(f"--{key}={value}" for key, value in chosen.items() if value is not None),
        *(settings.get("slurm_extra") or []),
    ]
