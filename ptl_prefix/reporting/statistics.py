"""Statistics over seeds: means, confidence intervals, and significance tests against the best row.

In: one value per seed, for each row. Out: a `Summary` of each row, and a `Verdict` that compares it with the best row.
A single seed gets no interval and no test.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
_ROUNDING = 1e-12
"""Relative spread below which values count as equal: it is the rounding error of a subtraction."""

RowKey = TypeVar("RowKey", bound=Hashable)
SeedKey = TypeVar("SeedKey", bound=Hashable)

Interval = tuple[float, float]
Standing = Literal["best", "alike", "worse", "unknown"]
Direction = Literal["minimize", "maximize"]


@dataclass(frozen=True)
class Summary:
    """The mean of some values.

    Args:
        mean: Mean.
        interval: 95% confidence interval of the mean (Student's t); `None` for a single value.
        count: Number of values.
    """

    mean: float
    interval: Interval | None
    count: int

    @property
    def half_width(self) -> float | None:
        """Half the width of the interval, shown after ±."""
        return None if self.interval is None else (self.interval[1] - self.interval[0]) / 2


@dataclass(frozen=True)
class Verdict:
    """The comparison of a row with the best row.

    Args:
        standing: `best`; `alike`: not significantly different from the best; `worse`: significantly worse; or
            `unknown`: not tested.
        difference: Mean of the row minus mean of the best, over the tested seeds; `None` if not tested.
        interval: 95% confidence interval of the difference, not corrected for multiple tests.
        p: P-value, with Holm's correction over all tested rows.
        paired: Whether the test is paired by seed.
    """

    standing: Standing
    difference: float | None = None
    interval: Interval | None = None
    p: float | None = None
    paired: bool = False


@dataclass(frozen=True)
class PairedDifference:
    """The difference of two rows over the seeds that they share, before any correction for multiple tests.

    Args:
        num_seeds: Number of shared seeds.
        mean: Mean of the first minus the second; `None` without a shared seed.
        interval: 95% confidence interval of that mean; `None` below two seeds, or if all differences are equal.
        p: P-value of the paired t-test; `None` as for `interval`, but 1 if the rows are equal in every seed.
    """

    num_seeds: int
    mean: float | None = None
    interval: Interval | None = None
    p: float | None = None


def paired_difference(values: Mapping[SeedKey, float], others: Mapping[SeedKey, float]) -> PairedDifference:
    """Compare two rows by a paired t-test over the seeds that they share."""
    shared = [seed for seed in values if seed in others]
    if len(shared) < 2:
        mean = values[shared[0]] - others[shared[0]] if shared else None
        return PairedDifference(len(shared), mean)
    found = _compared({seed: values[seed] for seed in shared}, {seed: others[seed] for seed in shared})
    return PairedDifference(len(shared), found.difference, found.interval, found.p)


def summarize(values: Sequence[float]) -> Summary:
    """Compute the mean of at least one value, and its confidence interval."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Summary(mean, None, len(values))
    error = float(stats.sem(values)) if _varies(values) else 0.0
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * error
    return Summary(mean, (mean - half, mean + half), len(values))


def compare_with_best(
    samples: Mapping[RowKey, Mapping[SeedKey, float]], direction: Direction, *, bare: float | None = None
) -> dict[RowKey, Verdict]:
    """Compare each row with the best: a paired t-test if two rows share at least two seeds, else Welch's t-test.

    No row is called the best if the bare backbone reaches all of them.

    Args:
        samples: Values by seed, for each row; no row may be empty.
        direction: Whether the metric is minimized or maximized.
        bare: Value of the bare backbone; `None` if it was not measured.
    """
    sign = 1 if direction == "maximize" else -1
    means = {row: sign * float(np.mean(list(values.values()))) for row, values in samples.items()}
    best = max(means, key=means.__getitem__)
    found = {row: _compared(values, samples[best]) for row, values in samples.items() if row != best}
    corrected = holm({row: verdict.p for row, verdict in found.items() if verdict.p is not None})
    is_reached = bare is not None and sign * bare >= means[best]
    verdicts: dict[RowKey, Verdict] = {best: Verdict("unknown" if is_reached else "best")}
    for row, verdict in found.items():
        p = corrected.get(row)
        standing: Standing = "unknown" if p is None or is_reached else "worse" if p < 1 - CONFIDENCE else "alike"
        verdicts[row] = Verdict(standing, verdict.difference, verdict.interval, p, verdict.paired)
    return verdicts


def holm(p_values: Mapping[RowKey, float]) -> dict[RowKey, float]:
    """Correct p-values for multiple tests (Holm, 1979).

    The smallest of n is multiplied by n, the next by n - 1 and so on; no corrected value is below the one before.
    """
    corrected: dict[RowKey, float] = {}
    largest = 0.0
    for rank, row in enumerate(sorted(p_values, key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[row]))
        corrected[row] = largest
    return corrected


def pareto_front(points: Mapping[RowKey, tuple[float, float]], direction: Direction) -> list[RowKey]:
    """Return the Pareto front: rows that no row of the same or a lower cost beats, cheapest first.

    Args:
        points: Cost and quality of each row.
        direction: Whether quality is minimized or maximized; cost is always minimized.
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
    """Compare a row with the best, before the correction for multiple tests."""
    shared = [seed for seed in values if seed in best]
    if len(shared) > 1:
        differences = [values[seed] - best[seed] for seed in shared]
        mean = float(np.mean(differences))
        if _varies(differences):
            test = stats.ttest_1samp(differences, 0.0)
            return Verdict("unknown", mean, _ends(test), float(test.pvalue), paired=True)
        # Constant differences have no variance to test against; if they are all 0, the rows are equal.
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
