"""Scoring of predictions by named metrics, for all predictions and for each group.

In: predictions and names of metrics. Out: `Scores`. If predictions have groups, `<metric>/<group>`, such as
`multi_bleu/unseen`, is the metric of that group alone. A metric that cannot be computed is skipped, with a reason.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ptl_prefix.artifacts.metric_key import with_group
from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.evaluation.bootstrap import bootstrap_interval
from ptl_prefix.evaluation.metric import (
    Metric,
    MetricFailedError,
    MetricNotApplicableError,
    Statistics,
    UnseenLettersError,
    load_metric,
)
from ptl_prefix.evaluation.unseen_letters import require_seen_letters


@dataclass(frozen=True)
class Scores:
    """The scores of a list of predictions.

    Args:
        values: Values by `<metric>` or `<metric>/<group>`, as in `metric_key`.
        infos: Descriptions of the values, by the same key.
        parts: Components of some values, such as kinds of errors, by the same key.
        intervals: 95% confidence intervals by the same key; empty without resamples.
        unavailable: Reason for each metric that was skipped because this machine cannot compute it, or because it
            cannot read the script of the references.
        inapplicable: Reason for each metric that was skipped because the predictions do not fit it.
    """

    values: dict[str, float] = field(default_factory=dict)
    infos: dict[str, MetricInfo] = field(default_factory=dict)
    parts: dict[str, dict[str, float]] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)
    inapplicable: dict[str, str] = field(default_factory=dict)

    @property
    def skipped(self) -> dict[str, str]:
        """The reason for each metric that was skipped."""
        return {**self.unavailable, **self.inapplicable}


def score(
    predictions: Sequence[Prediction],
    names: Sequence[str],
    *,
    resamples: int = 0,
    seed: int = 0,
    settings: Mapping[str, Mapping[str, object]] | None = None,
) -> Scores:
    """Score predictions.

    Args:
        predictions: Outputs with their references, at least one.
        names: Names of metrics.
        resamples: Number of bootstrap draws for the intervals; 0 computes none.
        seed: Seed of the bootstrap draws.
        settings: Constructor arguments of some metrics, by metric.

    Raises:
        ValueError: A name is not a metric's.
    """
    scores = Scores()
    given = settings or {}
    for name, metric in [(name, load_metric(name, **given.get(name, {}))) for name in names]:
        if metric.unavailable_reason is not None:
            scores.unavailable[name] = metric.unavailable_reason
            continue
        try:
            require_seen_letters(name, metric, predictions)
            _measure(scores, name, metric, predictions, resamples=resamples, seed=seed)
        except (MetricFailedError, UnseenLettersError) as error:
            scores.unavailable[name] = str(error)
        except MetricNotApplicableError as error:
            scores.inapplicable[name] = str(error)
    return scores


def _measure(
    scores: Scores, name: str, metric: Metric, predictions: Sequence[Prediction], *, resamples: int, seed: int
) -> None:
    for group, rows in _rows_by_group(metric, predictions):
        key = with_group(name, group)
        total = rows.sum(axis=0)
        scores.values[key], scores.infos[key] = metric.value(total), metric.info
        if parts := metric.parts(total):
            scores.parts[key] = dict(parts)
        if resamples:
            scores.intervals[key] = bootstrap_interval(rows, metric.value, resamples=resamples, seed=seed)


def _rows_by_group(metric: Metric, predictions: Sequence[Prediction]) -> Iterator[tuple[str, Statistics]]:
    """The rows of all predictions, then of each group, with the group's name."""
    rows = metric.statistics(predictions)
    yield "", rows
    for group in sorted({prediction.group for prediction in predictions} - {""}):
        indices = [index for index, prediction in enumerate(predictions) if prediction.group == group]
        if metric.rows_depend_on_all:
            yield group, metric.statistics([predictions[index] for index in indices])
        else:
            yield group, rows[indices]
