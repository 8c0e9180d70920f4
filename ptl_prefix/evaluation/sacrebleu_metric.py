"""The base class of metrics that sacrebleu computes, as statistics that can be summed.

In: a scorer of sacrebleu and predictions. Out: its statistics of each prediction, and its score for their total. The
methods used here are those of sacrebleu's own resampling and are not public; tests compare the result with its public
`corpus_score`.
"""

from abc import abstractmethod
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.evaluation.metric import Metric, Statistics


class SacreBleuMetric(Metric):
    """A metric of sacrebleu."""

    @abstractmethod
    def scorer(self) -> Any:
        """Construct sacrebleu's scorer."""

    def texts(self, prediction: Prediction) -> tuple[str, Sequence[str]]:
        """The hypothesis and the references that are compared: unchanged, unless a metric overrides this."""
        return prediction.hypothesis, prediction.references

    def statistics(self, predictions: Sequence[Prediction]) -> Statistics:
        """The statistics of sacrebleu for each prediction."""
        compared = [self.texts(prediction) for prediction in predictions]
        # sacrebleu reads one stream per reference number, with `None` where a prediction has fewer references.
        streams = [list(stream) for stream in zip_longest(*(references for _, references in compared))]
        rows = self.scorer()._extract_corpus_statistics([hypothesis for hypothesis, _ in compared], streams)
        return np.array(rows, dtype=np.float64)

    def value(self, total: Statistics) -> float:
        """The score of sacrebleu."""
        return float(self.scorer()._compute_score_from_stats(total.tolist()).score)
