"""Routes a text by its words and pairs of words; no forward pass is needed.

In: the hashed counts of each task's training inputs. Out: a router. A text's score for a task is its log-odds, under
unigram models of the hashed n-grams, between the task and a background: all tasks together, mixed with a uniform
distribution, which stands for texts of no task. It is divided by the number of n-grams, so that short and long texts
compare. Other statistics were measured beside it: `LOG.md`, 2026-11-29, "Routing by n-grams and by hidden states".
"""

from collections.abc import Sequence

import numpy as np

from ptl_prefix.artifacts.ngram_counts import NUM_COLUMNS, NgramCounts, count_ngrams
from ptl_prefix.artifacts.routing_facts import RoutingFacts
from ptl_prefix.serving.router import Router, Scorer, Scores

_TASK_WEIGHT = 0.7
"""Weight of a task's own counts; the rest is the background's, so that one unknown word cannot exclude a task."""
_UNIFORM_WEIGHT = 0.5
"""Weight of the uniform distribution in the background."""


class NgramRouter(Router[NgramCounts]):
    """A router by hashed n-grams; see `Router`."""

    def _scorer(self, facts: Sequence[RoutingFacts]) -> Scorer[NgramCounts]:
        return _NgramScorer(facts)

    def _features(self, text: str) -> NgramCounts:
        return count_ngrams([text])

    def _validation(self, facts: RoutingFacts) -> NgramCounts:
        return facts.validation

    def _validation_rows(self, facts: RoutingFacts) -> NgramCounts:
        return facts.validation


class _NgramScorer:
    """Log-odds of n-grams.

    Args:
        facts: Facts of each task, at least one.
    """

    def __init__(self, facts: Sequence[RoutingFacts]) -> None:
        shares = np.stack([one.totals / one.totals.sum() for one in facts], axis=1)  # (columns, tasks)
        background = (1 - _UNIFORM_WEIGHT) * shares.mean(axis=1, keepdims=True) + _UNIFORM_WEIGHT / NUM_COLUMNS
        self._log_odds = np.log(_TASK_WEIGHT * shares / background + 1 - _TASK_WEIGHT).astype(np.float32)

    def scores(self, features: NgramCounts) -> Scores:
        """The mean log-odds of each text's n-grams for each task, (texts, tasks)."""
        sums = np.zeros((len(features), self._log_odds.shape[1]))
        np.add.at(sums, features.rows, self._log_odds[features.columns] * features.counts[:, None])
        lengths = features.lengths[:, None]
        return np.where(lengths > 0, sums / np.maximum(lengths, 1), -np.inf)
