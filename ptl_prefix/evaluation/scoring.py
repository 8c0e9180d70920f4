"""Predictions become numbers: the named metrics of all of them, and of each group by itself.

In: predictions, names of metrics. Out: `Scores`. With groups there is also `<metric>_<group>`, such as
`multi_bleu_unseen`: what the metric gives for that group alone. A metric that cannot be computed takes none of the
others with it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.evaluation.bootstrap import bootstrap_interval
from ptl_prefix.evaluation.metric import Metric, MetricFailedError, MetricNotApplicableError, Statistics, load_metric


@dataclass(frozen=True)
class Scores:
    """What was measured.

    Args:
        values: By metric, or `<metric>_<group>`.
        infos: What each of them means.
        parts: What some of them are made of, such as kinds of errors.
        intervals: Their 95% intervals; empty where none were asked for.
        unavailable: Reason for each metric that was skipped because this machine cannot compute it.
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
    """Measure predictions; there is at least one.

    Args:
        predictions: What was written, beside its references.
        names: Of metrics.
        resamples: Draws for the intervals; 0 gives none.
        seed: Of those draws.
        settings: What the constructors of some metrics take, by metric.

    Raises:
        ValueError: A name is of no metric.
    """
    scores = Scores()
    given = settings or {}
    for name, metric in [(name, load_metric(name, **given.get(name, {}))) for name in names]:
        if metric.unavailable_reason is not None:
            scores.unavailable[name] = metric.unavailable_reason
            continue
        try:
            _measure(scores, name, metric, predictions, resamples=resamples, seed=seed)
        except MetricFailedError as error:
            scores.unavailable[name] = str(error)
        except MetricNotApplicableError as error:
            scores.inapplicable[name] = str(error)
    return scores


def _measure(
    scores: Scores, name: str, metric: Metric, predictions: Sequence[Prediction], *, resamples: int, seed: int
) -> None:
    for suffix, rows in _rows_by_group(metric, predictions):
        key = f"{name}{suffix}"
        total = rows.sum(axis=0)
        scores.values[key], scores.infos[key] = metric.value(total), metric.info
        if parts := metric.parts(total):
            scores.parts[key] = dict(parts)
        if resamples:
            scores.intervals[key] = bootstrap_interval(rows, metric.value, resamples=resamples, seed=seed)


def _rows_by_group(metric: Metric, predictions: Sequence[Prediction]) -> Iterator[tuple[str, Statistics]]:
    """The rows of all predictions, then of each group, with what ends its name."""
    rows = metric.statistics(predictions)
    yield "", rows
    for group in sorted({prediction.group for prediction in predictions} - {""}):
        places = [place for place, prediction in enumerate(predictions) if prediction.group == group]
        if metric.rows_depend_on_all:
            yield f"_{group}", metric.statistics([predictions[place] for place in places])
        else:
            yield f"_{group}", rows[places]
