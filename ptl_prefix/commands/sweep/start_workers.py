"""Starts the workers of a study where its executor runs them.

In: a study, its scheduler and the name of an executor. Out: a `WorkerPool`, whose workers have not been started.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from ptl_prefix.artifacts.fingerprint import num_cores
from ptl_prefix.commands.sweep.remote_worker import RemoteWorker
from ptl_prefix.commands.sweep.study_folder import Study
from ptl_prefix.sweeping.executor import Executor
from ptl_prefix.sweeping.ray_executor import RayExecutor
from ptl_prefix.sweeping.scheduler import Scheduler
from ptl_prefix.sweeping.trial_processes import TrialServer
from ptl_prefix.sweeping.worker_pool import WorkerPool


def make_worker_pool(
    study: Study,
    scheduler: Scheduler,
    notify: Callable[[str], None],
    *,
    executor: str,
    num_workers: int | None = None,
    server: TrialServer | None = None,
    launcher: Sequence[str] = (),
) -> WorkerPool:
    """The workers of a command.

    Args:
        study: The study.
        scheduler: Chooses their trials.
        notify: Called with a status line when something happens.
        executor: `local` or `ray`.
        num_workers: Trials, or packs, that run at once; `None` is the study's own number.
        server: A prepared trial server, for workers of this process; `None` starts one.
        launcher: Command that starts the processes of each trial of a local worker; empty to fork each trial.

    Raises:
        SweepError: If the cluster cannot be reached.
    """
    count = num_workers or study.spec.n_jobs
    if executor == "ray":
        started_by = _ray(study, notify, server)
    else:
        started_by = _local(study, scheduler, notify, count, server, launcher)
    return WorkerPool(scheduler, started_by, num_workers=count, notify=notify)


def _local(
    study: Study,
    scheduler: Scheduler,
    notify: Callable[[str], None],
    num_workers: int,
    server: TrialServer | None,
    launcher: Sequence[str],
) -> Executor:
    spec = study.spec
    threads = spec.threads or max(1, num_cores() // num_workers)
    devices = () if launcher else spec.devices  # a launcher gives each rank its own
    return study.local_executor(scheduler, notify, threads=threads, devices=devices, server=server, launcher=launcher)


def _ray(study: Study, notify: Callable[[str], None], server: TrialServer | None) -> Executor:
    if server is not None:
        server.close()  # its trials would run on this machine
    spec = study.spec
    threads = spec.threads or max(1, int(spec.cpus_of_worker))
    return RayExecutor(
        RemoteWorker,
        {"folder": str(study.folder.resolve()), "working_dir": str(Path.cwd()), "threads": threads},
        address=spec.ray_address,
        num_cpus=spec.cpus_of_worker,
        num_gpus=spec.gpus_of_worker,
        notify=notify,
    )
