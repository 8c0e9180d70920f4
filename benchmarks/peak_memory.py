"""The peak memory of a training step, each contender in a process of its own.

In: names of contenders and a `Setting`. Out: bytes, counted from before the model is built: as torch allocates them on
a GPU, as the process grows elsewhere.
"""

import multiprocessing
import resource
import sys
from collections.abc import Sequence

import torch

from benchmarks.training_steps import CONTENDERS, Setting


def peak_memories(names: Sequence[str], setting: Setting) -> dict[str, int]:
    """Everyone's peak, each in a process of its own, forked from one that has only imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    peaks = {}
    for name in names:
        with context.Pool(1) as pool:
            peaks[name] = pool.apply(_peak_memory, (name, setting), {"num_threads": torch.get_num_threads()})
    return peaks


def _peak_memory(name: str, setting: Setting, *, num_threads: int) -> int:
    """Bytes at the peak of two steps, weights included."""
    torch.set_num_threads(num_threads)
    before = _peak_resident()
    training = CONTENDERS[name].build(setting)
    for _ in range(2):  # the optimizer makes its moments in the first
        training.step()
    if setting.device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(setting.device)
    return _peak_resident() - before


def _peak_resident() -> int:
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage if sys.platform == "darwin" else usage * 1024  # Linux counts kibibytes
