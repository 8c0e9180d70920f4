"""Contenders take turns in rounds, and ratios are those within a round."""

import pytest

from benchmarks import rounds
from benchmarks.rounds import in_rounds, timed


class Clock:
    """A clock that a contender moves on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(rounds.time, "perf_counter", lambda: self.now)

    def wait(self, seconds: float) -> None:
        self.now += seconds


def test_every_round_has_every_contender_once_and_the_first_ones_do_not_count() -> None:
    told: list[str] = []

    def turn(name: str) -> int:
        told.append(name)
        return len(told)

    found = in_rounds({name: lambda name=name: turn(name) for name in "abc"}, rounds=3, warmup=1)  # type: ignore[misc]

    assert [sorted(told[start : start + 3]) for start in (0, 3, 6, 9)] == [["a", "b", "c"]] * 4
    assert len({tuple(told[start : start + 3]) for start in (0, 3, 6, 9)}) > 1, "the order differs between rounds"
    assert sorted(number for numbers in found.values() for number in numbers) == list(range(4, 13))


def test_no_round_begins_that_would_end_after_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    found = in_rounds({"a": timed(lambda: clock.wait(4.0)), "b": timed(lambda: clock.wait(6.0))}, rounds=9, limit_s=35)

    # A fourth round of 10 s would end after 40 s.
    assert found == {"a": [4.0] * 3, "b": [6.0] * 3}


@pytest.mark.parametrize("warmup", [0, 2])
def test_the_first_round_that_counts_always_runs(monkeypatch: pytest.MonkeyPatch, warmup: int) -> None:
    clock = Clock(monkeypatch)

    assert in_rounds({"a": timed(lambda: clock.wait(50.0))}, rounds=3, warmup=warmup, limit_s=1.0) == {"a": [50.0]}
