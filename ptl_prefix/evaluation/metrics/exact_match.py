"""The share of outputs that equal one of their references, white space apart."""

from collections.abc import Sequence

from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.evaluation.metric import MeanMetric


class ExactMatch(MeanMetric):
    """Accuracy of whole outputs. A task whose references are not all there is to say will score low."""

    info = MetricInfo(scale="0-1", direction="maximize", version="1", library="ptl_prefix")

    def values(self, predictions: Sequence[Prediction]) -> list[float]:
        """1 for an output that equals one of its references, else 0."""
        return [float(_matches(prediction)) for prediction in predictions]


def _matches(prediction: Prediction) -> bool:
    return _plain(prediction.hypothesis) in {_plain(reference) for reference in prediction.references}


def _plain(text: str) -> str:
    return " ".join(text.split())
