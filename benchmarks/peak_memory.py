"""The peak memory of a training step, each contender in a process of its own.

In: names of contenders and a `Setting`. Out: bytes as torch's allocator was asked for them, weights included; `None` on
a device that does not tell.
"""

import multiprocessing
from collections.abc import Callable, Sequence

import torch

from benchmarks.allocations import allocations
from benchmarks.step_builders import CONTENDERS, Setting


def peak_memories(names: Sequence[str], setting: Setting) -> dict[str, int | None]:
    """Everyone's peak, each in a process of its own, forked from one that has only imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    peaks = {}
    for name in names:
        with context.Pool(1) as pool:
            peaks[name] = pool.apply(_peak_memory, (name, setting), {"num_threads": torch.get_num_threads()})
    return peaks


def _peak_memory(name: str, setting: Setting, *, num_threads: int) -> int | None:
    """Bytes at the peak of a step that is not the first, weights included."""
    torch.set_num_threads(num_threads)

    def make() -> Callable[[], float]:
        training = CONTENDERS[name].build(setting)
        training.step()  # the optimizer makes its moments in the first
        return training.step

    device = torch.device(setting.device)
    if device.type == "cpu":
        return allocations(make).peak
    if device.type != "cuda":
        return None
    step = make()
    torch.cuda.reset_peak_memory_stats(device)
    step()
    return torch.cuda.max_memory_allocated(device)
