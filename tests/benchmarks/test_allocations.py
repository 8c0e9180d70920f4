"""Only the allocations of a step are counted."""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.allocations import Allocations, count_allocations

KIB = 1024


def _bytes(count: int) -> Tensor:
    return torch.empty(count, dtype=torch.uint8)


def test_what_a_step_makes_ready_is_held_before_it_and_its_peak_is_no_sum() -> None:
    kept: list[Tensor] = []

    def make() -> Callable[[], object]:
        _bytes(64 * KIB)  # gone before the step
        kept.append(_bytes(4 * KIB))

        def step() -> None:
            for _ in range(3):
                _bytes(KIB)
            kept.append(_bytes(2 * KIB))

        return step

    assert count_allocations(make) == Allocations(before=4 * KIB, peak=6 * KIB)


def test_a_step_that_lets_go_of_what_it_found_gains_nothing_by_it() -> None:
    found = [_bytes(8 * KIB)]

    def step() -> None:
        found.clear()
        _bytes(KIB)

    assert count_allocations(lambda: step) == Allocations(before=0, peak=KIB)


def test_an_earlier_count_does_not_meddle_with_a_later_one() -> None:
    held: list[Tensor] = []
    count_allocations(lambda: lambda: held.extend(_bytes(KIB) for _ in range(100)))
    held.clear()  # while nobody counts
    held.extend(_bytes(KIB) for _ in range(100))  # at the same addresses

    def step() -> None:
        held.clear()
        _bytes(8 * KIB)

    assert count_allocations(lambda: step) == Allocations(before=0, peak=8 * KIB)


def test_what_is_made_ready_may_be_let_go_of_within_the_step() -> None:
    def make() -> Callable[[], object]:
        old = [_bytes(4 * KIB)]

        def step() -> None:
            old.clear()
            old.append(_bytes(4 * KIB))

        return step

    assert count_allocations(make) == Allocations(before=4 * KIB, peak=4 * KIB)
