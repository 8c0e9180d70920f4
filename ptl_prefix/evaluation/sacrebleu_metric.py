"""Scores of sacrebleu's, taken apart into what they sum.

In: a scorer of sacrebleu and predictions. Out: its statistics of each prediction, and its score of their total. The
methods that are called here are those by which sacrebleu resamples, and not public: tests hold the result against its
public `corpus_score`.
"""

from abc import abstractmethod
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.evaluation.metric import Metric, Statistics


class SacreBleuMetric(Metric):
    """One of sacrebleu's scores."""

    @abstractmethod
    def scorer(self) -> Any:
        """The object of sacrebleu's that computes it."""

    def texts(self, prediction: Prediction) -> tuple[str, Sequence[str]]:
        """The hypothesis and the references that are compared; as they are, unless a metric says otherwise."""
        return prediction.hypothesis, prediction.references

    def statistics(self, predictions: Sequence[Prediction]) -> Statistics:
        """What sacrebleu counts in each prediction."""
        compared = [self.texts(prediction) for prediction in predictions]
        # sacrebleu reads a stream for each place in the references; where there is none it wants `None`.
        streams = [list(stream) for stream in zip_longest(*(references for _, references in compared))]
        rows = self.scorer()._extract_corpus_statistics([hypothesis for hypothesis, _ in compared], streams)
        return np.array(rows, dtype=np.float64)

    def value(self, total: Statistics) -> float:
        """Sacrebleu's score."""
        return float(self.scorer()._compute_score_from_stats(total.tolist()).score)
