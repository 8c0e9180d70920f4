"""Exact match: the fraction of outputs that equal one of their references, up to white space."""

from collections.abc import Sequence

from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.evaluation.metric import MeanMetric


class ExactMatch(MeanMetric):
    """Accuracy of whole outputs. It is low for tasks whose references are only some of the right outputs."""

    info = MetricInfo(scale="0-1", direction="maximize", version="1", library="ptl_prefix")

    def values(self, predictions: Sequence[Prediction]) -> list[float]:
        """1 for an output that equals one of its references, else 0."""
        return [float(_matches(prediction)) for prediction in predictions]


def _matches(prediction: Prediction) -> bool:
    return _normalised(prediction.hypothesis) in {_normalised(reference) for reference in prediction.references}


def _normalised(text: str) -> str:
    return " ".join(text.split())
