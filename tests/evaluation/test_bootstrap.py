import numpy as np
import pytest

from ptl_prefix.evaluation.bootstrap import bootstrap_interval
from ptl_prefix.evaluation.metric import Statistics


def mean(total: Statistics) -> float:
    return float(total[0] / total[1])


def rows_of(numbers: np.ndarray) -> Statistics:
    return np.stack([numbers, np.ones(len(numbers))], axis=1)


def test_it_covers_the_true_mean_19_times_in_20() -> None:
    rng = np.random.default_rng(0)
    intervals = [bootstrap_interval(rows_of(rng.exponential(size=80)), mean, resamples=300, seed=0) for _ in range(400)]

    covered = sum(low <= 1 <= high for low, high in intervals) / 400

    # A percentile interval of skewed numbers covers a little less than it says.
    assert 0.90 <= covered <= 0.97


def test_it_is_as_wide_as_the_standard_error_says() -> None:
    numbers = np.random.default_rng(1).normal(5, 2, size=1000)

    low, high = bootstrap_interval(rows_of(numbers), mean, resamples=4000, seed=0)

    error = numbers.std() / np.sqrt(1000)
    assert (low, high) == pytest.approx((numbers.mean() - 1.96 * error, numbers.mean() + 1.96 * error), abs=0.1 * error)


def test_the_seed_alone_decides_it() -> None:
    rows = rows_of(np.random.default_rng(2).normal(size=50))

    first = bootstrap_interval(rows, mean, resamples=300, seed=0)

    assert bootstrap_interval(rows, mean, resamples=300, seed=0) == first
    assert bootstrap_interval(rows, mean, resamples=300, seed=1) != first


def test_where_all_items_are_alike_there_is_nothing_to_doubt() -> None:
    assert bootstrap_interval(rows_of(np.full(7, 3.0)), mean, resamples=10, seed=0) == (3.0, 3.0)
