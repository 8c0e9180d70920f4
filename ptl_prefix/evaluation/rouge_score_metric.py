"""The base class of ROUGE metrics for summaries, computed by the package rouge-score with stemming.

In: predictions. Out: the mean F-measure. Of several references, the one with the best F-measure counts, for each kind
of ROUGE by itself (`RougeScorer.score_multi`).
"""

import sys
from collections.abc import Sequence
from typing import ClassVar

from absl import logging as absl_logging
from rouge_score.rouge_scorer import RougeScorer

from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.evaluation.metric import MeanMetric

# rouge-score logs through absl, which keeps the standard error stream of its import, and closes it when logging is
# configured again, as Hydra does. If that stream was a temporary replacement, somebody else's is closed. absl never
# closes the process's own stream.
absl_logging.get_absl_handler().python_handler.setStream(sys.__stderr__)


class RougeScoreMetric(MeanMetric):
    """One kind of ROUGE, in percent."""

    rouge_type: ClassVar[str]
    """The name of the score in rouge-score."""
    scale = 100.0

    def reads(self, letter: str) -> bool:
        """Whether rouge-score's tokenizer keeps a character: a to z and digits."""
        return letter.isascii()

    def values(self, predictions: Sequence[Prediction]) -> list[float]:
        """The best F-measure of each prediction."""
        scorer = RougeScorer([self.rouge_type], use_stemmer=True)
        return [
            float(scorer.score_multi(one.references, one.hypothesis)[self.rouge_type].fmeasure) for one in predictions
        ]
