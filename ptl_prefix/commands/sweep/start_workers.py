"""Starts the workers of a study where its executor runs them.

In: a study, its scheduler and the name of an executor. Out: a `WorkerPool`, whose workers have not been started.
"""

from collections.abc import Callable
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
    server: TrialServer,
    has_launcher: bool = False,
) -> WorkerPool:
    """The workers of a command.

    Args:
        study: The study.
        scheduler: Chooses their trials.
        notify: Called with a status line when something happens.
        executor: `local` or `ray`.
        num_workers: Trials, or packs, that run at once; `None` is the study's own number.
        server: The trial server of workers of this process.
        has_launcher: Whether a launcher starts the processes of its trials, and gives each rank its own device.

    Raises:
        SweepError: If the cluster cannot be reached.
    """
    count = num_workers or study.spec.n_jobs
    if executor == "ray":
        started_by = _ray(study, notify)
    else:
        started_by = _local(study, scheduler, notify, count, server, has_launcher=has_launcher)
    return WorkerPool(scheduler, started_by, num_workers=count, notify=notify)


def _local(
    study: Study,
    scheduler: Scheduler,
    notify: Callable[[str], None],
    num_workers: int,
    server: TrialServer,
    *,
    has_launcher: bool,
) -> Executor:
    spec = study.spec
    threads = spec.threads or max(1, num_cores() // num_workers)
    devices = () if has_launcher else spec.devices
    return study.local_executor(scheduler, server, notify, threads=threads, devices=devices)


def _ray(study: Study, notify: Callable[[str], None]) -> Executor:
    spec = study.spec
    threads = spec.threads or max(1, int(spec.cpus_of_worker))
    return RayExecutor(
        RemoteWorker,
        {
            "folder": str(study.folder.resolve()),
            "working_dir": str(Path.cwd()),
            "address": None if (address := study.address_to_join) is None else str(address),
            "threads": threads,
        },
        address=spec.ray_address,
        num_cpus=spec.cpus_of_worker,
        num_gpus=spec.gpus_of_worker,
        notify=notify,
    )
