"""Slot error rate of E2E outputs: missing, added and repeated values, divided by the values of the input.

Wen et al., EMNLP 2015: (missing + redundant) / slots. Values are read from the input, as `e2e_nlg` renders it or as it
was released, and found in outputs by the patterns of `e2e_slots.py`. By these patterns, two rule-based systems of the
challenge (TUDA, FORGe) make no errors, and the references of the test split make 11 per 100 values, most of them
missing values. Lower is better.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.evaluation.e2e_slots import count_slot_errors, parse_slots
from ptl_prefix.evaluation.metric import Metric, MetricNotApplicableError, Statistics


class SlotErrorRate(Metric):
    """Errors per value of the inputs, in percent."""

    info = MetricInfo(scale="percent", direction="minimize", version="1", library="ptl_prefix")

    def statistics(self, predictions: Sequence[Prediction]) -> Statistics:
        """Numbers of missing, added and repeated values, and of the input's values.

        Raises:
            MetricNotApplicableError: A source is not an input of E2E.
        """
        rows = []
        for one in predictions:
            slots = parse_slots(one.source)
            if slots is None:
                raise MetricNotApplicableError(
                    "slot_error_rate needs inputs of E2E, such as 'name : Blue Spice | Type : pub', but that of "
                    f"'{one.id}' is {one.source!r:.60}."
                )
            rows.append([*count_slot_errors(slots, one.hypothesis), len(slots)])
        return np.array(rows, dtype=np.float64)

    def value(self, total: Statistics) -> float:
        """Errors divided by values, in percent."""
        return float(100 * total[:3].sum() / total[3])

    def parts(self, total: Statistics) -> Mapping[str, float]:
        """Numbers of the three kinds of errors."""
        return dict(zip(("missing", "added", "repeated"), total[:3].tolist(), strict=True))
