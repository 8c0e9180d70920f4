"""What a few seeds can tell: means with intervals, and which rows cannot be told from the best.

In: one number a seed, by row. Out: a `Summary` of each row, and its `Verdict` beside the best. Nothing is claimed of a
single seed.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
_ROUNDING = 1e-12
"""Differences that vary by less than this share of themselves do not vary: it is the rounding of a subtraction."""

RowKey = TypeVar("RowKey", bound=Hashable)
SeedKey = TypeVar("SeedKey", bound=Hashable)

Interval = tuple[float, float]
Standing = Literal["best", "alike", "worse", "unknown"]
Direction = Literal["minimize", "maximize"]


@dataclass(frozen=True)
class Summary:
    """Some numbers as one.

    Args:
        mean: Their mean.
        interval: Of that mean, by Student's t at 95%; `None` of a single number.
        count: How many they are.
    """

    mean: float
    interval: Interval | None
    count: int

    @property
    def half_width(self) -> float | None:
        """What stands behind the ± sign."""
        return None if self.interval is None else (self.interval[1] - self.interval[0]) / 2


@dataclass(frozen=True)
class Verdict:
    """A row beside the best row.

    Args:
        standing: The best itself; alike, as it cannot be told from the best; worse; or unknown, as nothing was tested.
        difference: Its mean less that of the best, over the seeds that were tested; `None` where nothing was.
        interval: Of that difference, at 95%, for this one pair of rows.
        p: Of the test, by Holm's correction for all rows that were tested.
        paired: Whether the seeds of the two rows are the same.
    """

    standing: Standing
    difference: float | None = None
    interval: Interval | None = None
    p: float | None = None
    paired: bool = False


def summarize(values: Sequence[float]) -> Summary:
    """The mean of some numbers, at least one, and the interval around it."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Summary(mean, None, len(values))
    error = float(stats.sem(values)) if _varies(values) else 0.0
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * error
    return Summary(mean, (mean - half, mean + half), len(values))


def compare_with_best(samples: Mapping[RowKey, Mapping[SeedKey, float]], direction: Direction) -> dict[RowKey, Verdict]:
    """Each row's standing: Student's test of the differences where seeds are paired, else Welch's.

    Args:
        samples: A number for each seed, by row; none of them empty.
        direction: Which way is better.
    """
    sign = 1 if direction == "maximize" else -1
    means = {row: sign * float(np.mean(list(values.values()))) for row, values in samples.items()}
    best = max(means, key=means.__getitem__)
    found = {row: _compared(values, samples[best]) for row, values in samples.items() if row != best}
    corrected = holm({row: verdict.p for row, verdict in found.items() if verdict.p is not None})
    verdicts: dict[RowKey, Verdict] = {best: Verdict("best")}
    for row, verdict in found.items():
        p = corrected.get(row)
        standing: Standing = "unknown" if p is None else "worse" if p < 1 - CONFIDENCE else "alike"
        verdicts[row] = Verdict(standing, verdict.difference, verdict.interval, p, verdict.paired)
    return verdicts


def holm(p_values: Mapping[RowKey, float]) -> dict[RowKey, float]:
    """P-values that hold together (Holm, 1979): the smallest times their number, the next times one less, and so on."""
    corrected: dict[RowKey, float] = {}
    largest = 0.0
    for place, row in enumerate(sorted(p_values, key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[row]))
        corrected[row] = largest
    return corrected


def pareto_front(points: Mapping[RowKey, tuple[float, float]], direction: Direction) -> list[RowKey]:
    """The rows that no other row beats at the same or a smaller cost, from the cheapest on.

    Args:
        points: Cost and quality by row.
        direction: Which way quality is better; cost is always better when it is less.
    """
    sign = 1 if direction == "maximize" else -1
    front: list[RowKey] = []
    best = -np.inf
    for row, (_, quality) in sorted(points.items(), key=lambda item: (item[1][0], -sign * item[1][1])):
        if sign * quality > best:
            best = sign * quality
            front.append(row)
    return front


def _compared(values: Mapping[SeedKey, float], best: Mapping[SeedKey, float]) -> Verdict:
    """A row and the best, not yet corrected for the number of rows."""
    shared = [seed for seed in values if seed in best]
    if len(shared) > 1:
        differences = [values[seed] - best[seed] for seed in shared]
        mean = float(np.mean(differences))
        if _varies(differences):
            test = stats.ttest_1samp(differences, 0.0)
            return Verdict("unknown", mean, _ends(test), float(test.pvalue), paired=True)
        # Equal differences leave nothing to compare with, unless there is none at all.
        return Verdict("unknown", mean, None, 1.0 if mean == 0 else None, paired=True)
    mine, theirs = list(values.values()), list(best.values())
    if min(len(mine), len(theirs)) > 1 and _varies(mine) and _varies(theirs):
        test = stats.ttest_ind(mine, theirs, equal_var=False)
        return Verdict("unknown", float(np.mean(mine) - np.mean(theirs)), _ends(test), float(test.pvalue))
    return Verdict("unknown")


def _varies(values: Sequence[float]) -> bool:
    return bool(np.ptp(values) > _ROUNDING * np.max(np.abs(values)))


def _ends(test: "stats._stats_py.TtestResult") -> Interval:
    ends = test.confidence_interval(CONFIDENCE)
    return float(ends.low), float(ends.high)
