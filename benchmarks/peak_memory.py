"""Measures the peak memory of a training step, each contender in its own process.

In: names of contenders and a `Setting`. Out: bytes requested from torch's allocator, including weights; `None` if the
device does not report them.
"""

import multiprocessing
from collections.abc import Callable, Sequence

import torch

from benchmarks.allocations import count_allocations
from benchmarks.step_builders import CONTENDERS, Setting


def peak_memories(names: Sequence[str], setting: Setting) -> dict[str, int | None]:
    """Measure each contender's peak in its own process, forked from one that has only imported modules."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    peaks = {}
    for name in names:
        with context.Pool(1) as pool:
            peaks[name] = pool.apply(_peak_memory, (name, setting), {"num_threads": torch.get_num_threads()})
    return peaks


def _peak_memory(name: str, setting: Setting, *, num_threads: int) -> int | None:
    """Peak bytes of a step after the first, including weights."""
    torch.set_num_threads(num_threads)

    def make() -> Callable[[], float]:
        training = CONTENDERS[name].build(setting)
        training.step()  # the first step allocates the optimizer's moments
        return training.step

    device = torch.device(setting.device)
    if device.type == "cpu":
        return count_allocations(make).peak
    if device.type != "cuda":
        return None
    step = make()
    torch.cuda.reset_peak_memory_stats(device)
    step()
    return torch.cuda.max_memory_allocated(device)
