"""ROUGE as rouge-score computes it, with stemming: what summaries are measured by.

In: predictions. Out: the mean F-measure of one of its scores. Of several references the one with the best F-measure
counts, as `RougeScorer.score_multi` has it, for each score by itself.
"""

import sys
from collections.abc import Sequence
from typing import ClassVar

from absl import logging as absl_logging
from rouge_score.rouge_scorer import RougeScorer

from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.evaluation.metric import MeanMetric

# rouge-score logs through absl, which keeps whatever standard error is when it is imported, and closes it when
# logging is configured anew, as Hydra does: another's, if it was replaced for a while. It never closes the process's
# own.
absl_logging.get_absl_handler().python_handler.setStream(sys.__stderr__)


class RougeScoreMetric(MeanMetric):
    """One of rouge-score's scores; in percent."""

    rouge_type: ClassVar[str]
    """What rouge-score calls it."""
    scale = 100.0

    def values(self, predictions: Sequence[Prediction]) -> list[float]:
        """Each prediction's best F-measure."""
        scorer = RougeScorer([self.rouge_type], use_stemmer=True)
        return [
            float(scorer.score_multi(one.references, one.hypothesis)[self.rouge_type].fmeasure) for one in predictions
        ]
