"""How sure a metric's number is, from the items that it was measured on.

In: a row of statistics for each item, and what makes a number of their total. Out: an interval. The items are drawn
anew, with replacement, as often as there are items; the interval holds the middle 95% of the numbers of many such draws
(Koehn, EMNLP 2004: percentile bootstrap). It says how much the number depends on the choice of test items, and nothing
of the choice of training data or seeds.
"""

from collections.abc import Callable

import numpy as np

from ptl_prefix.evaluation.metric import Statistics

_TAILS = (2.5, 97.5)
_DRAWN_TOGETHER = 256  # bounds the memory that counts take


def bootstrap_interval(
    statistics: Statistics, value: Callable[[Statistics], float], *, resamples: int, seed: int
) -> tuple[float, float]:
    """The 95% interval of a metric.

    Args:
        statistics: A row for each item.
        value: The number, from the total of some rows.
        resamples: Draws; 1,000 are usual.
        seed: Of the draws. All metrics of one seed see the same ones, so that two systems can be compared.
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
