"""Contenders that take turns, so that a slow period of the machine affects all of them.

In: functions, each a contender's turn. Out: what each has returned in every round, and ratios within rounds. Each round
runs every contender once, in a random order that is the same in every call.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)
Found = TypeVar("Found")


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Ratio of two numbers of the same round: median and quartiles over all rounds."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


def in_rounds(
    turns: Mapping[Name, Callable[[], Found]], *, rounds: int, warmup: int = 0, limit_s: float = float("inf")
) -> dict[Name, list[Found]]:
    """Run rounds of turns.

    Args:
        turns: Each contender's turn.
        rounds: Number of rounds that count.
        warmup: Number of rounds before them.
        limit_s: Seconds after which no further round begins. A round begins only if one as long as the last ends in
            time; the first one that counts always does.

    Returns:
        What each contender's turns have returned, round by round.
    """
    found: dict[Name, list[Found]] = {name: [] for name in turns}
    shuffler, names = random.Random(0), list(turns)
    began = time.perf_counter()
    round_s = 0.0
    for number in range(warmup + rounds):
        elapsed_s = time.perf_counter() - began
        if number > warmup and elapsed_s + round_s > limit_s:
            break
        for name in shuffler.sample(names, len(names)):
            result = turns[name]()
            if number >= warmup:
                found[name].append(result)
        round_s = time.perf_counter() - began - elapsed_s
    return found


def add_limit(parser: argparse.ArgumentParser) -> None:
    """Add `--limit-s` to a benchmark's arguments."""
    about = "seconds of rounds after which no further one begins, within one comparison; default: none"
    parser.add_argument("--limit-s", type=float, default=float("inf"), help=about)


def timed(step: Callable[[], object]) -> Callable[[], float]:
    """A turn that returns the seconds of a step."""

    def turn() -> float:
        began = time.perf_counter()
        step()
        return time.perf_counter() - began

    return turn


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Ratio:
    """The ratio of two contenders' numbers in each round."""
    ratios = [above / below for above, below in zip(numerators, denominators, strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return Ratio(median=median, low=low, high=high)
