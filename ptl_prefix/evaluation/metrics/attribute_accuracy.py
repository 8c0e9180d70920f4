"""The share of an input's values that its output mentions word for word."""

from collections.abc import Sequence

import numpy as np

from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.evaluation.metric import Metric, MetricNotApplicableError, Statistics


class AttributeAccuracy(Metric):
    """Recall of attribute values. It does not see what an output adds; `exact_match` does."""

    info = MetricInfo(scale="0-1", direction="maximize", version="1", library="ptl_prefix")

    def statistics(self, predictions: Sequence[Prediction]) -> Statistics:
        """Values mentioned, and values.

        Raises:
            MetricNotApplicableError: When no prediction has a value to look for.
        """
        if not any(prediction.values for prediction in predictions):
            raise MetricNotApplicableError(
                "attribute_accuracy needs `values`, what each output should mention, but no prediction has any."
            )
        return np.array(
            [
                (sum(value in prediction.hypothesis for value in prediction.values), len(prediction.values))
                for prediction in predictions
            ],
            dtype=np.float64,
        )

    def value(self, total: Statistics) -> float:
        """Values mentioned, over all values; a resample without any counts as nothing mentioned."""
        return float(total[0] / total[1]) if total[1] else 0.0
