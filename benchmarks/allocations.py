"""What torch's allocator on the CPU was asked for.

In: some work. Out: bytes, the same ones each time, whatever libraries were loaded on the way and whatever the machine
was doing; what a process grows by is neither.
"""

import gc
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Allocations:
    """What some work asked for.

    Args:
        peak: The most bytes held at once, beyond what was held before the work.
        left: Bytes still held at its end. What it let go of that it had not asked for is subtracted, in both.
    """

    peak: int
    left: int


def allocations(work: Callable[[], object]) -> Allocations:
    """Count what some work asks for."""
    gc.collect()  # else it is thrown away, and subtracted, during the work
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    events = profiler.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    now = most = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return Allocations(peak=most, left=now)
