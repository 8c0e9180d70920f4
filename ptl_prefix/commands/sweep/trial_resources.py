"""The CPU threads and the accelerator of a trial.

In: what a worker gives its trials. Out: this process, a fork of the trial server, uses that and no more.
"""

import os


def use_resources(threads: int, device: int | None) -> None:
    """Limit this process to a number of CPU threads, and to an accelerator unless it is `None`."""
    limit_environment(threads, device)
    import torch

    torch.set_num_threads(threads)


def limit_environment(threads: int, device: int | None) -> None:
    """The same for a process that has not imported torch, and for its children."""
    os.environ |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible_device(device, os.environ.get("CUDA_VISIBLE_DEVICES"))


def visible_device(device: int, visible: str | None) -> str:
    """The id of a device among those that `CUDA_VISIBLE_DEVICES` allows, for example within a job of Slurm's."""
    names = [name for name in (visible or "").split(",") if name]
    return names[device % len(names)] if names else str(device)
