"""METEOR of DART: alignment with the first reference. Needs Java.

DART's `prepare_files.py` gives METEOR 1.5 (Denkowski & Lavie, WMT 2014) the first references alone. The form of the
texts is that of `dart_text.py`.
"""

from collections.abc import Sequence

from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.evaluation.dart_text import dart_texts
from ptl_prefix.evaluation.meteor_program import meteor_rows
from ptl_prefix.evaluation.metric import Statistics
from ptl_prefix.evaluation.metrics.meteor import METEOR


class DartMETEOR(METEOR):
    """METEOR of the whole set, in percent."""

    def statistics(self, predictions: Sequence[Prediction]) -> Statistics:
        """The counts of the METEOR program.

        Raises:
            MetricFailedError: The program failed.
        """
        compared = map(dart_texts, predictions)
        return meteor_rows((hypothesis, references[:1]) for hypothesis, references in compared)
