"""`ptl-prefix sweep export`: writes the job from which another engine starts a study's workers.

In: an existing study, the name of an engine, and its settings. Out: a file in the study's folder, and the command that
submits it.
"""

import shlex
from collections.abc import Mapping
from typing import Any

from ptl_prefix.artifacts.printed_command import printed_command
from ptl_prefix.commands.sweep.kubernetes import kubernetes_problems, write_kubernetes_job
from ptl_prefix.commands.sweep.slurm import slurm_problems, write_slurm_script
from ptl_prefix.commands.sweep.study_folder import Study
from ptl_prefix.errors import ConfigError
from ptl_prefix.sweeping.sweeper_settings import EXPORTED, ExecutorName


def export_study(study: Study, target: str, settings: Mapping[str, Any]) -> str:
    """Write the job of an engine.

    Args:
        study: The study.
        target: `slurm` or `kubernetes`.
        settings: The settings of `conf/sweep.yaml`.

    Returns:
        The command that submits the job.

    Raises:
        ConfigError: With every mistake, before anything is written.
    """
    if target not in EXPORTED:
        raise ConfigError([f"`sweep export` can only write for {' or '.join(EXPORTED)}, but got {target!r}."])
    engine: ExecutorName = "slurm" if target == "slurm" else "kubernetes"
    problems_of = slurm_problems if engine == "slurm" else kubernetes_problems
    if problems := [*study.spec.executor_problems(engine), *problems_of(study, settings)]:
        raise ConfigError(problems)
    if engine == "slurm":
        return shlex.join(["sbatch", str(write_slurm_script(study, settings))])
    return shlex.join(["kubectl", "apply", "--filename", str(write_kubernetes_job(study, settings))])


def next_command(study: Study, engine: str) -> str:
    """What to do next where an engine starts the workers."""
    claim = " kubernetes_claim=CLAIM" if study.address_to_join is None else ""
    needed = f" kubernetes_image=IMAGE{claim}" if engine == "kubernetes" else ""
    return (
        f"No worker starts here, as the study's executor is {engine}. Write the job whose workers run the trials:\n"
        f"  {printed_command('sweep', 'export', study.folder, engine)}{needed}"
    )
