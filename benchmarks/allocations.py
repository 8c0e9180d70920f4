"""Counts the bytes that a step requests from torch's CPU allocator.

In: a function that creates a step. Out: bytes, which are reproducible. The growth of the process is not: it depends on
loaded libraries and on the load of the machine.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._C._profiler import _ExtraFields_Allocation

_STEP = "counted step"


@dataclass(frozen=True)
class Allocations:
    """Bytes that were allocated since the count began and not yet freed.

    Args:
        before: Bytes when the step began.
        peak: Maximum during the step.
    """

    before: int
    peak: int


def count_allocations(make: Callable[[], Callable[[], object]]) -> Allocations:
    """Create a step, run it, and count allocations of both.

    Args:
        make: Creates the step. Its allocations count as `before`. Memory that was allocated earlier does not count, nor
            does freeing it.
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        step = make()
        with torch.profiler.record_function(_STEP):
            step()
    events = sorted(_flat(profiler.profiler.kineto_results.experimental_event_tree()), key=lambda e: e.start_time_ns)
    (begin,) = (event.start_time_ns for event in events if event.name == _STEP)
    sizes: dict[int, int] = {}  # sizes of live blocks, by address
    held = before = peak = 0
    for event in events:
        fields = event.extra_fields
        if not isinstance(fields, _ExtraFields_Allocation):
            continue
        if fields.alloc_size > 0:
            sizes[fields.ptr] = fields.alloc_size
            held += fields.alloc_size
        else:
            # torch also reports frees of blocks that an earlier profile saw allocated, at addresses that are in use by
            # others now.
            held -= sizes.pop(fields.ptr, 0)
        if event.start_time_ns < begin:
            before = held
        else:
            peak = max(peak, held)
    return Allocations(before=before, peak=max(before, peak))


def _flat(events: Sequence[Any]) -> Iterator[Any]:
    for event in events:
        yield event
        yield from _flat(event.children)
