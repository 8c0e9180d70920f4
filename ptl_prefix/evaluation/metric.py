"""What a metric is, and where it is found.

In: predictions. Out: one number. A metric is one file in `metrics/`; its name is the file's. It is a function of a sum:
each prediction has a row of statistics, and the number is made of the rows' total. So one set of rows gives the number
of the whole, of any part of it, and of as many resamples as an interval needs.
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
    """The predictions lack what a metric needs: values, labels, a form of source."""


class MetricFailedError(ValueError):
    """This machine could not compute a metric, though it seemed to have what it takes."""


class Metric(ABC):
    """A number for a list of predictions.

    `scoring.score` calls it: first `unavailable_reason`, then `statistics`, then `value` of the rows' total.
    """

    info: ClassVar[MetricInfo]
    """Its scale, direction, version and library, recorded with every value."""
    rows_depend_on_all: ClassVar[bool] = False
    """Whether a row depends on the other predictions, as where n-grams are weighted by how rare they are in all of the
    references. The rows of a part are then made anew; resamples of an interval keep the weights of the whole."""

    @property
    def unavailable_reason(self) -> str | None:
        """What this machine lacks to compute it, as a sentence; `None` if nothing."""
        return None

    @abstractmethod
    def statistics(self, predictions: Sequence[Prediction]) -> Statistics:
        """A row for each prediction; there is at least one.

        Raises:
            MetricNotApplicableError: The predictions lack what the metric needs.
        """

    @abstractmethod
    def value(self, total: Statistics) -> float:
        """The number, from the sum of the rows."""

    def parts(self, total: Statistics) -> Mapping[str, float]:
        """What the number is made of, where that is worth seeing; most metrics have nothing to say."""
        return {}

    def score(self, predictions: Sequence[Prediction]) -> float:
        """The number for these predictions."""
        return self.value(self.statistics(predictions).sum(axis=0))


class MeanMetric(Metric):
    """A metric that gives each prediction a number of its own, and all of them the mean."""

    scale: ClassVar[float] = 1.0
    """What the mean is multiplied by: 100 for percent."""

    @abstractmethod
    def values(self, predictions: Sequence[Prediction]) -> Sequence[float]:
        """One number for each prediction."""

    def statistics(self, predictions: Sequence[Prediction]) -> Statistics:
        """Each number, and that it is one."""
        return np.array([(value, 1.0) for value in self.values(predictions)])

    def value(self, total: Statistics) -> float:
        """The mean."""
        return float(self.scale * total[0] / total[1])


def metric_names() -> list[str]:
    """Every metric that there is."""
    return sorted(module.name for module in pkgutil.iter_modules(metrics.__path__))


def metric_name_mistakes(names: Iterable[str], setting: str) -> list[str]:
    """A sentence for each name of no metric.

    Args:
        names: As a config has them.
        setting: Where.
    """
    known = metric_names()
    return [
        f"`{setting}` must be some of {', '.join(known)}, but one is '{name}'."
        for name in dict.fromkeys(names)
        if name not in known
    ]


def load_metric(name: str, **settings: object) -> Metric:
    """The metric that `metrics/<name>.py` defines.

    Args:
        name: The file's.
        settings: What its constructor takes, if anything.

    Raises:
        ValueError: Naming those that there are.
    """
    known = metric_names()
    if name not in known:
        raise ValueError(f"A metric must be one of {', '.join(known)}, but is '{name}'.")
    module = importlib.import_module(f"{metrics.__name__}.{name}")
    (metric,) = (
        member
        for member in vars(module).values()
        if isinstance(member, type) and issubclass(member, Metric) and member.__module__ == module.__name__
    )
    found: Metric = metric(**settings)
    return found


def library(distribution: str) -> str:
    """A library as `MetricInfo` names it, with its version if it is installed."""
    try:
        return f"{distribution} {importlib.metadata.version(distribution)}"
    except importlib.metadata.PackageNotFoundError:
        return distribution
