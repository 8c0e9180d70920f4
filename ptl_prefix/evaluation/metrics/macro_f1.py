"""The F-measure of each label, averaged: every label counts the same, however often it is.

The labels are those that the references have. What is written and is none of them is a miss of the label that was
due, and no mistake in another's precision.
"""

from collections.abc import Sequence

import numpy as np

from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.evaluation.labels import label_pairs
from ptl_prefix.evaluation.metric import Metric, Statistics


class MacroF1(Metric):
    """The mean over labels of 2 right / (due + given)."""

    info = MetricInfo(scale="0-1", direction="maximize", version="1", library="ptl_prefix")
    rows_depend_on_all = True

    def statistics(self, predictions: Sequence[Prediction]) -> Statistics:
        """For each label whether it is right, due, given.

        Raises:
            MetricNotApplicableError: When a prediction has several references.
        """
        pairs = label_pairs("macro_f1", predictions)
        place = {label: number for number, label in enumerate(sorted({expected for expected, _ in pairs}))}
        rows = np.zeros((len(pairs), 3, len(place)))
        for row, (expected, given) in zip(rows, pairs, strict=True):
            row[1, place[expected]] = 1
            if given in place:
                row[2, place[given]] = 1
                row[0, place[given]] = expected == given
        return rows.reshape(len(pairs), -1)

    def value(self, total: Statistics) -> float:
        """The mean over labels that are due; a resample may be without some."""
        right, due, given = total.reshape(3, -1)
        is_due = due > 0
        return float((2 * right[is_due] / (due + given)[is_due]).mean())
