"""The interface of a metric, and the loader of the metrics in `metrics/`.

In: predictions. Out: one value. A metric is one file in `metrics/`, which gives it its name. It is a function of a sum:
each prediction has a row of statistics, and the value is computed from the rows' total. One set of rows therefore gives
the value of the whole set, of each group, and of all resamples of a confidence interval.
"""

import importlib
import importlib.metadata
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.evaluation import metrics

Statistics = npt.NDArray[np.float64]
"""A row for each prediction, or the total of such rows."""


class MetricNotApplicableError(ValueError):
    """The predictions do not have what a metric needs, such as values, labels or a form of source."""


class UnseenLettersError(ValueError):
    """A metric cannot read the script of the references."""


class MetricFailedError(ValueError):
    """The computation of a metric failed on this machine."""


class Metric(ABC):
    """A metric of a list of predictions.

    `scoring.score` calls `unavailable_reason`, then `reads` for the letters of the references, then `statistics`, then
    `value` with the total of the rows.
    """

    info: ClassVar[MetricInfo]
    """Scale, direction, version and library, recorded with every value."""
    rows_depend_on_all: ClassVar[bool] = False
    """Whether a row depends on the other predictions, as with n-grams that are weighted by their frequency in all
    references. The rows of a group are then computed again; resamples keep the weights of the whole set."""

    @property
    def unavailable_reason(self) -> str | None:
        """The reason why this machine cannot compute the metric, as a sentence; `None` if it can."""
        return None

    def reads(self, letter: str) -> bool:
        """Whether the metric's tokenizer keeps this letter or digit; most metrics read every script."""
        return True

    @abstractmethod
    def statistics(self, predictions: Sequence[Prediction]) -> Statistics:
        """Compute a row for each prediction, of which there is at least one.

        Raises:
            MetricNotApplicableError: The predictions do not have what the metric needs.
            MetricFailedError: The computation failed.
        """

    @abstractmethod
    def value(self, total: Statistics) -> float:
        """The value for the sum of some rows."""

    def parts(self, total: Statistics) -> Mapping[str, float]:
        """Components of the value, such as kinds of errors; empty for most metrics."""
        return {}

    def score(self, predictions: Sequence[Prediction]) -> float:
        """The value for these predictions."""
        return self.value(self.statistics(predictions).sum(axis=0))


class MeanMetric(Metric):
    """A metric whose value is the mean of one number per prediction."""

    scale: ClassVar[float] = 1.0
    """Factor of the mean; 100 for percent."""

    @abstractmethod
    def values(self, predictions: Sequence[Prediction]) -> Sequence[float]:
        """Compute one number for each prediction."""

    def statistics(self, predictions: Sequence[Prediction]) -> Statistics:
        """Rows of a number and the count 1."""
        return np.array([(value, 1.0) for value in self.values(predictions)])

    def value(self, total: Statistics) -> float:
        """The mean, times `scale`."""
        return float(self.scale * total[0] / total[1])


def metric_names() -> list[str]:
    """The names of all metrics."""
    return sorted(module.name for module in pkgutil.iter_modules(metrics.__path__))


def metric_name_mistakes(names: Iterable[str], setting: str) -> list[str]:
    """A message for each name that is not a metric's.

    Args:
        names: Names from a config.
        setting: Config key of the names.
    """
    known = metric_names()
    return [
        f"`{setting}` must be names of metrics ({', '.join(known)}), but one is '{name}'; correct or remove it."
        for name in dict.fromkeys(names)
        if name not in known
    ]


def load_metric(name: str, **settings: object) -> Metric:
    """Construct the metric that `metrics/<name>.py` defines.

    Args:
        name: Name of the metric, and of its file.
        settings: Keyword arguments of its constructor.

    Raises:
        ValueError: There is no such metric; the message lists the names.
    """
    loaded: Metric = _metric_class(name)(**settings)
    return loaded


def metric_info(name: str) -> MetricInfo:
    """Scale, direction, version and library of a metric, without constructing it.

    Raises:
        ValueError: There is no such metric; the message lists the names.
    """
    return _metric_class(name).info


def _metric_class(name: str) -> type[Metric]:
    known = metric_names()
    if name not in known:
        raise ValueError(f"A metric must be one of {', '.join(known)}, but is '{name}'.")
    module = importlib.import_module(f"{metrics.__name__}.{name}")
    (metric,) = (
        member
        for member in vars(module).values()
        if isinstance(member, type) and issubclass(member, Metric) and member.__module__ == module.__name__
    )
    return metric


def library(distribution: str) -> str:
    """A library's name for `MetricInfo`, with its version if it is installed."""
    try:
        return f"{distribution} {importlib.metadata.version(distribution)}"
    except importlib.metadata.PackageNotFoundError:
        return distribution
