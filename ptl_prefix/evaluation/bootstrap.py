"""Bootstrap confidence intervals of metrics, over the test items.

In: a row of statistics for each item, and a function from the rows' total to a value. Out: a 95% interval. Each
resample draws as many items as there are, with replacement; the interval holds the middle 95% of the values of many
resamples (percentile bootstrap; Koehn, EMNLP 2004). It shows how much a value depends on the choice of test items, not
of training data or seeds.
"""

from collections.abc import Callable

import numpy as np

from ptl_prefix.evaluation.metric import Statistics

_TAILS = (2.5, 97.5)
_DRAWN_TOGETHER = 256  # bounds the memory of the counts


def bootstrap_interval(
    statistics: Statistics, value: Callable[[Statistics], float], *, resamples: int, seed: int
) -> tuple[float, float]:
    """Compute the 95% interval of a metric.

    Args:
        statistics: Statistics of the items, a row for each.
        value: Function from the total of some rows to the metric's value.
        resamples: Number of resamples; 1,000 is usual.
        seed: Seed of the resamples. Metrics with one seed use the same resamples, so that two systems can be compared.
    """
    rng = np.random.default_rng(seed)
    items = len(statistics)
    numbers: list[float] = []
    while len(numbers) < resamples:
        draws = min(_DRAWN_TOGETHER, resamples - len(numbers))
        counts = rng.multinomial(items, np.full(items, 1 / items), size=draws)
        numbers.extend(value(total) for total in counts @ statistics)
    low, high = np.percentile(numbers, _TAILS)
    return float(low), float(high)
