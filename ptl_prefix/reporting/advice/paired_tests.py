"""The tests that advice stands on.

In: pairs of rows that one question is about. Out: a `PairedTest` for each, with Holm's correction over the question.
A difference is claimed only if at least `MIN_SEEDS` seeds are shared, the corrected p-value is below 0.05, and the 95%
interval excludes 0.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.reporting.comparison_record import RowRecord, SeedRecord
from ptl_prefix.reporting.grids import format_difference
from ptl_prefix.reporting.statistics import CONFIDENCE, Direction, PairedDifference, holm, paired_difference

MIN_SEEDS = 3
"""Fewest shared seeds for a claim. Two seeds leave one degree of freedom: the spread is then estimated from a single
difference, and a test is significant where two runs happen to agree."""

Outcome = Literal["better", "worse", "open", "untested"]
Values = Mapping[tuple[int, int | None], float]

TOKENS_PER_S = MetricInfo(scale="tokens/s", direction="maximize", version="1", library="ptl_prefix")
"""The description of the training speed, which is tested as a metric is."""


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """The comparison of a row with another one, or with the bare backbone.

    Args:
        row: Row whose values come first.
        other: Row that is subtracted; `None` is the bare backbone.
        metric: Name of the metric.
        info: Scale and direction of the metric.
        difference: Difference over the shared seeds.
        p: P-value after the correction; `None` if it was not tested.
        num_tests: Number of tests of the question, over which p is corrected.
    """

    row: RowRecord
    other: RowRecord | None
    metric: str
    info: MetricInfo
    difference: PairedDifference
    p: float | None = None
    num_tests: int = 0

    @property
    def outcome(self) -> Outcome:
        """`better` or `worse`: the row is so, significantly; `open`: no evidence of a difference; or `untested`."""
        if self.p is None:
            return "untested"
        mean, interval = self.difference.mean, self.difference.interval
        if mean is None or interval is None or self.p >= 1 - CONFIDENCE or interval[0] <= 0 <= interval[1]:
            return "open"
        return "better" if (mean > 0) == (self.info.direction == "maximize") else "worse"

    @property
    def numbers(self) -> str:
        """The difference with its interval, p-value and seeds."""
        mean, interval = self.difference.mean, self.difference.interval
        if mean is None or self.p is None:
            return self._why_untested
        ends = "" if interval is None else f", 95% interval {' to '.join(self._signed(end) for end in interval)}"
        p = "p < 0.001" if self.p < 0.001 else f"p = {self.p:.3f}"
        count = "1 test" if self.num_tests == 1 else f"{self.num_tests} tests"
        return f"{self._signed(mean)}{ends}; {p} of {count}, {self.difference.num_seeds} seeds"

    @property
    def worst_case(self) -> float | None:
        """By how much the row may be worse, at the end of the interval; `None` if there is no interval."""
        if self.difference.interval is None:
            return None
        low, high = self.difference.interval
        return max(0.0, -low if self.info.direction == "maximize" else high)

    @property
    def _why_untested(self) -> str:
        seeds = self.difference.num_seeds
        if seeds < MIN_SEEDS:
            noun = "seed" if seeds == 1 else "seeds"
            return f"{seeds or 'no'} shared {noun}, {MIN_SEEDS} are needed"
        return f"{self._signed(self.difference.mean or 0.0)} in every seed, so there is no spread to test against"

    def _signed(self, value: float) -> str:
        if self.info is TOKENS_PER_S:
            return f"{value:+,.0f}".replace("-", "−")
        return format_difference(value, self.info)


def paired_test(row: RowRecord, other: RowRecord, metric: str, info: MetricInfo) -> PairedTest:
    """Compare two rows in a metric, without a correction; `correct` adds it."""
    mine, theirs = _paired_values(row, other, lambda run: run.metrics.get(metric))
    return PairedTest(row=row, other=other, metric=metric, info=info, difference=paired_difference(mine, theirs))


def speed_test(row: RowRecord, other: RowRecord) -> PairedTest:
    """Compare the training speed of two rows."""
    mine, theirs = _paired_values(row, other, lambda run: run.tokens_per_s)
    found = paired_difference(mine, theirs)
    return PairedTest(row=row, other=other, metric="tokens/s", info=TOKENS_PER_S, difference=found)


def bare_test(row: RowRecord, bare: float, metric: str, info: MetricInfo) -> PairedTest:
    """Compare a row with the bare backbone, whose value has no seed."""
    values = values_by_seed(row, lambda run: run.metrics.get(metric))
    found = paired_difference(values, dict.fromkeys(values, bare))
    return PairedTest(row=row, other=None, metric=metric, info=info, difference=found)


def correct(tests: Sequence[PairedTest]) -> list[PairedTest]:
    """Correct the tests of one question by Holm's method; those of too few seeds are not tested."""
    raw = {
        index: test.difference.p
        for index, test in enumerate(tests)
        if test.difference.p is not None and test.difference.num_seeds >= MIN_SEEDS
    }
    corrected = holm(raw)
    return [replace(test, p=corrected.get(index), num_tests=len(raw)) for index, test in enumerate(tests)]


def values_by_seed(row: RowRecord, value: Callable[[SeedRecord], float | None]) -> Values:
    """The values of a row's runs by their seeds; runs without one are left out."""
    return {(run.seed, run.subset_seed): found for run in row.runs if (found := value(run)) is not None}


def mean_of(row: RowRecord, metric: str, direction: Direction) -> float:
    """The mean of a metric, negated if it is maximized, so that the lowest is the best."""
    mean = row.summaries[metric].mean
    return -mean if direction == "maximize" else mean


def _paired_values(
    row: RowRecord, other: RowRecord, value: Callable[[SeedRecord], float | None]
) -> tuple[Values, Values]:
    """The values of two rows. Where only one is trained on subsets, the subsets of each seed are averaged."""
    mine, theirs = values_by_seed(row, value), values_by_seed(other, value)
    if {seed[1] is None for seed in mine} == {seed[1] is None for seed in theirs}:
        return mine, theirs
    return _by_first_seed(mine), _by_first_seed(theirs)


def _by_first_seed(values: Values) -> Values:
    found: defaultdict[int, list[float]] = defaultdict(list)
    for (seed, _), value in values.items():
        found[seed].append(value)
    return {(seed, None): sum(parts) / len(parts) for seed, parts in found.items()}
