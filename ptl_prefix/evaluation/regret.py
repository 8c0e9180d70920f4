"""What wrong routing costs: a metric under the routed tasks minus the metric under the right one.

In: two outputs for each input, of the task that it was routed to and of its own. Out: `Regret` for each metric, with a
95% bootstrap interval. Both outputs of an input are drawn together, so inputs that were routed right add nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.evaluation.bootstrap import bootstrap_interval
from ptl_prefix.evaluation.metric import (
    Metric,
    MetricFailedError,
    MetricNotApplicableError,
    Statistics,
    load_metric,
)


@dataclass(frozen=True)
class Regret:
    """The cost of routing in one metric of one task.

    Args:
        metric: Name of the metric.
        direction: `maximize` or `minimize`.
        right: Value under the right task.
        difference: Value under the routed tasks minus `right`.
        interval: 95% interval of `difference`.
    """

    metric: str
    direction: str
    right: float
    difference: float
    interval: tuple[float, float]


def regrets(
    routed: Sequence[Prediction], right: Sequence[Prediction], metrics: Sequence[str], *, resamples: int, seed: int
) -> list[Regret]:
    """Compare the outputs of the routed tasks with those of the right one.

    Args:
        routed: Outputs of the tasks that the inputs were routed to, at least one.
        right: Outputs of the right task, in the same order.
        metrics: Names of the right task's metrics; those that cannot be computed are left out.
        resamples: Number of bootstrap draws, at least 1.
        seed: Seed of the draws.
    """
    found = []
    for name in metrics:
        metric = load_metric(name)
        if metric.unavailable_reason is not None:
            continue
        try:
            own, other = metric.statistics(right), metric.statistics(routed)
        except (MetricNotApplicableError, MetricFailedError):
            continue
        difference = partial(_difference, metric, other.shape[1])
        rows = np.concatenate([other, own], axis=1)
        found.append(
            Regret(
                metric=name,
                direction=metric.info.direction,
                right=float(metric.value(own.sum(axis=0))),
                difference=difference(rows.sum(axis=0)),
                interval=bootstrap_interval(rows, difference, resamples=resamples, seed=seed),
            )
        )
    return found


def _difference(metric: Metric, width: int, total: Statistics) -> float:
    """The metric of the routed outputs, whose statistics are the first `width`, minus that of the right ones."""
    return metric.value(total[:width]) - metric.value(total[width:])
