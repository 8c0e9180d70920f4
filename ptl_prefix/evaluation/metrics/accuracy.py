"""Accuracy: the fraction of labels that are right, where each input has one."""

from collections.abc import Sequence

from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.evaluation.labels import label_pairs
from ptl_prefix.evaluation.metric import MeanMetric


class Accuracy(MeanMetric):
    """Number of right labels, divided by the number of all."""

    info = MetricInfo(scale="0-1", direction="maximize", version="1", library="ptl_prefix")

    def values(self, predictions: Sequence[Prediction]) -> list[float]:
        """1 for a right label, else 0.

        Raises:
            MetricNotApplicableError: A prediction has several references.
        """
        return [float(expected == predicted) for expected, predicted in label_pairs("accuracy", predictions)]
