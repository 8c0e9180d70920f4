"""Macro-F1: the mean of the labels' F-measures, so that rare labels count as much as frequent ones.

The labels are those of the references. An output that is none of them lowers the recall of the expected label, and no
label's precision.
"""

from collections.abc import Sequence

import numpy as np

from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.evaluation.labels import label_pairs
from ptl_prefix.evaluation.metric import Metric, Statistics


class MacroF1(Metric):
    """Mean over labels of 2 right / (expected + predicted)."""

    info = MetricInfo(scale="0-1", direction="maximize", version="1", library="ptl_prefix")
    rows_depend_on_all = True

    def statistics(self, predictions: Sequence[Prediction]) -> Statistics:
        """For each label: whether it is right, expected, predicted.

        Raises:
            MetricNotApplicableError: A prediction has several references.
        """
        pairs = label_pairs("macro_f1", predictions)
        column = {label: number for number, label in enumerate(sorted({expected for expected, _ in pairs}))}
        rows = np.zeros((len(pairs), 3, len(column)))
        for row, (expected, predicted) in zip(rows, pairs, strict=True):
            row[1, column[expected]] = 1
            if predicted in column:
                row[2, column[predicted]] = 1
                row[0, column[predicted]] = expected == predicted
        return rows.reshape(len(pairs), -1)

    def value(self, total: Statistics) -> float:
        """The mean over the labels that are expected; a resample may be without some."""
        right, expected, predicted = total.reshape(3, -1)
        occurs = expected > 0
        return float((2 * right[occurs] / (expected + predicted)[occurs]).mean())
