"""Labels, as classification has them: one is due for each input, and one is written.

In: predictions. Out: pairs of them, white space apart.
"""

from collections.abc import Sequence

from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.evaluation.metric import MetricNotApplicableError


def label_pairs(metric: str, predictions: Sequence[Prediction]) -> list[tuple[str, str]]:
    """The label that is due and the one that was written, for each prediction.

    Raises:
        MetricNotApplicableError: When a prediction has several references: which label is due?
    """
    for one in predictions:
        if len(one.references) != 1:
            raise MetricNotApplicableError(
                f"{metric} needs one reference, the label, for each prediction, but '{one.id}' has "
                f"{len(one.references)}."
            )
    return [(_plain(one.references[0]), _plain(one.hypothesis)) for one in predictions]


def _plain(text: str) -> str:
    return " ".join(text.split())
