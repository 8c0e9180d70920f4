"""Slot error rate on E2E: values missing, added or said twice, over the values of the input.

Wen et al., EMNLP 2015: (missing + redundant) / slots. The values are read from the input, as `e2e_nlg` renders it or
as it was released; what an output says of them is found by patterns of our own, `e2e_slots.py`. By them, two of the
challenge's systems whose rules were written by hand (TUDA, FORGe) make no error at all; the references of the test make
11 per 100 values, most of them left out. Lower is better.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.evaluation.e2e_slots import count_slot_errors, parse_slots
from ptl_prefix.evaluation.metric import Metric, MetricNotApplicableError, Statistics


class SlotErrorRate(Metric):
    """Errors per value of the inputs; in percent."""

    info = MetricInfo(scale="percent", direction="minimize", version="1", library="ptl_prefix")

    def statistics(self, predictions: Sequence[Prediction]) -> Statistics:
        """Values missing, added, repeated, and those of the input.

        Raises:
            MetricNotApplicableError: When a source is no input of E2E.
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
        """Errors over values."""
        return float(100 * total[:3].sum() / total[3])

    def parts(self, total: Statistics) -> Mapping[str, float]:
        """The three kinds of errors, counted."""
        return dict(zip(("missing", "added", "repeated"), total[:3].tolist(), strict=True))
