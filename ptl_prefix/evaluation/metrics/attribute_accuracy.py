"""Attribute accuracy: the fraction of an input's values that its output contains word for word."""

from collections.abc import Sequence

import numpy as np

from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.evaluation.metric import Metric, MetricNotApplicableError, Statistics


class AttributeAccuracy(Metric):
    """Recall of attribute values. Values that an output adds do not lower it; `exact_match` catches them."""

    info = MetricInfo(scale="0-1", direction="maximize", version="1", library="ptl_prefix")

    def statistics(self, predictions: Sequence[Prediction]) -> Statistics:
        """Numbers of mentioned values and of all values.

        Raises:
            MetricNotApplicableError: No prediction has a value.
        """
        if not any(prediction.values for prediction in predictions):
            raise MetricNotApplicableError(
                "attribute_accuracy needs `values`, which each output should mention, but no prediction has any."
            )
        return np.array(
            [
                (sum(value in prediction.hypothesis for value in prediction.values), len(prediction.values))
                for prediction in predictions
            ],
            dtype=np.float64,
        )

    def value(self, total: Statistics) -> float:
        """Mentioned values divided by all values; 0 for a resample without values."""
        return float(total[0] / total[1]) if total[1] else 0.0
