"""What torch's allocator on the CPU was asked for while a step ran.

In: a step, or what makes it ready. Out: bytes, the same ones each time, whatever libraries were loaded on the way and
whatever the machine was doing; what a process grows by is neither.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._C._profiler import _ExtraFields_Allocation

_STEP = "the step that is counted"


@dataclass(frozen=True)
class Allocations:
    """What was held of what was asked for since the count began.

    Args:
        before: Bytes when the step began.
        peak: The most bytes during it.
    """

    before: int
    peak: int


def allocations(make: Callable[[], Callable[[], object]]) -> Allocations:
    """Make a step ready, run it, and count from the first.

    Args:
        make: Gives the step. What it allocates counts as held before the step; what was there already does not, nor
            that it is let go.
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        step = make()
        with torch.profiler.record_function(_STEP):
            step()
    events = sorted(_flat(profiler.profiler.kineto_results.experimental_event_tree()), key=lambda e: e.start_time_ns)
    (begin,) = (event.start_time_ns for event in events if event.name == _STEP)
    sizes: dict[int, int] = {}  # of what is held, by address
    held = before = peak = 0
    for event in events:
        fields = event.extra_fields
        if not isinstance(fields, _ExtraFields_Allocation):
            continue
        if fields.alloc_size > 0:
            sizes[fields.ptr] = fields.alloc_size
            held += fields.alloc_size
        else:
            # torch believes to know blocks that an earlier count saw made, and nobody saw go, at addresses where others
            # are now.
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
