"""Routes a text by its words and pairs of words; no forward pass is needed.

In: the hashed counts of each task's training inputs. Out: a router. A text's score for a task is its log-odds, under
unigram models of the hashed n-grams, between the task and a background: all tasks together, mixed with a uniform
distribution, which stands for texts of no task. It is divided by the number of n-grams, so that short and long texts
compare. Other statistics were measured beside it: `LOG.md`, 2026-11-29, "Routing by n-grams and by hidden states".
"""

import math
from collections.abc import Sequence

import numpy as np

from ptl_prefix.artifacts.ngram_counts import NUM_COLUMNS, Integers, NgramCounts, count_ngrams
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

    An n-gram that a task's inputs never had has the same log-odds for every task, so only the others are kept: of
    thousands of tasks a dense table would take gigabytes.

    Args:
        facts: Facts of each task, at least one.
    """

    def __init__(self, facts: Sequence[RoutingFacts]) -> None:
        self._num_tasks = len(facts)
        trained = [one.trained for one in facts]
        shares = [one.counts / one.counts.sum(dtype=np.float64) for one in trained]
        columns = np.concatenate([one.columns for one in trained])
        mean = np.bincount(columns, np.concatenate(shares), NUM_COLUMNS) / self._num_tasks
        background = (1 - _UNIFORM_WEIGHT) * mean + _UNIFORM_WEIGHT / NUM_COLUMNS
        odds = [_TASK_WEIGHT * share / background[one.columns] for share, one in zip(shares, trained, strict=True)]
        gains = np.log1p(np.concatenate(odds) / (1 - _TASK_WEIGHT)).astype(np.float32)
        ends = np.cumsum([len(one.columns) for one in trained])
        self._own = [
            (one.columns, gain) for one, gain in zip(trained, np.split(gains, ends[:-1]), strict=True)
        ]  # by task
        order = np.argsort(columns, kind="stable")
        self._tasks = np.repeat(np.arange(self._num_tasks, dtype=np.int32), np.diff(ends, prepend=0))[order]
        self._gains = gains[order]  # by column
        self._starts = np.searchsorted(columns[order], np.arange(NUM_COLUMNS + 1))

    def scores(self, features: NgramCounts) -> Scores:
        """The mean log-odds of each text's n-grams for each task, (texts, tasks)."""
        sums = np.zeros((len(features), self._num_tasks))
        for row, column, count in zip(features.rows, features.columns, features.counts, strict=True):
            those = slice(self._starts[column], self._starts[column + 1])
            sums[row, self._tasks[those]] += count * self._gains[those].astype(np.float64)
        return _means(sums, features.lengths[:, None])

    def own_scores(self, features: NgramCounts, task: int) -> Scores:
        """The column of `scores` of one task, to the last bit: it is what scores are compared with."""
        columns, gains = self._own[task]
        dense = np.zeros(NUM_COLUMNS)
        dense[columns] = gains
        sums = np.bincount(features.rows, dense[features.columns] * features.counts, len(features))
        return _means(sums.astype(np.float64), features.lengths)


def _means(sums: Scores, lengths: Integers) -> Scores:
    """Means over n-grams; of a text without any, minus infinity."""
    means: Scores = np.where(lengths > 0, sums / np.maximum(lengths, 1) + math.log(1 - _TASK_WEIGHT), -np.inf)
    return means
