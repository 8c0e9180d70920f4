"""A study as a job array of Slurm: each job is a worker that joins it.

In: a study that has begun, in a folder that every node sees. Out: a script for `sbatch`.
"""

import shlex
import sys
from pathlib import Path

from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.commands.studies import Study

_SCRIPT = """#!/bin/bash
# Workers of the study {name}: `sbatch {path}`. Any number of them may run at once, die, and be sent again.
#SBATCH --job-name={name}
#SBATCH --array=0-{last}
#SBATCH --cpus-per-task={threads}
{devices}#SBATCH --output={folder}/slurm-%A_%a.log
# A minute before the time is over what runs is stopped and saved, and the job is queued again.
#SBATCH --signal=B:TERM@60
#SBATCH --requeue
set -u
cd {cwd}
export OMP_NUM_THREADS={threads}
{python} -m ptl_prefix sweep worker {folder} &
worker=$!
trap 'kill -TERM $worker; wait $worker; scontrol requeue "$SLURM_ARRAY_JOB_ID"_"$SLURM_ARRAY_TASK_ID"; exit 143' TERM
wait $worker
"""


def write_slurm_script(study: Study) -> Path:
    """Write the script into the study's folder."""
    question = study.question
    path = (study.folder / "slurm.sh").resolve()
    text = _SCRIPT.format(
        name=shlex.quote(question.name),
        path=path,
        last=question.workers - 1,
        threads=question.threads or 1,
        devices="#SBATCH --gpus-per-task=1\n" if question.devices else "",
        folder=shlex.quote(str(study.folder.resolve())),
        cwd=shlex.quote(str(Path.cwd())),
        python=shlex.quote(sys.executable),
    )
    write_atomically(path, text)
    return path
