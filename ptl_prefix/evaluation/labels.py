"""Expected and predicted labels of a classification task.

In: predictions. Out: a pair of labels for each, with white space normalised.
"""

from collections.abc import Sequence

from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.evaluation.metric import MetricNotApplicableError


def label_pairs(metric: str, predictions: Sequence[Prediction]) -> list[tuple[str, str]]:
    """The expected and the predicted label of each prediction.

    Raises:
        MetricNotApplicableError: A prediction has several references, so that the expected label is unknown.
    """
    for one in predictions:
        if len(one.references) != 1:
            raise MetricNotApplicableError(
                f"{metric} needs one reference, the label, for each prediction, but '{one.id}' has "
                f"{len(one.references)}."
            )
    return [(_normalised(one.references[0]), _normalised(one.hypothesis)) for one in predictions]


def _normalised(text: str) -> str:
    return " ".join(text.split())
