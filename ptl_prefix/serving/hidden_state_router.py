"""Routes a text by the bare backbone's mean hidden state; one forward pass a text.

In: mean and deviation of each task's hidden states, and a function from a text to its own. Out: a router. A text's
score for a task is its log-odds between two Gaussians with independent dimensions: that of the task, and that of all
tasks together, which is made a little wider. It is divided by the width.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from ptl_prefix.artifacts.routing_facts import RoutingFacts, StateFacts, Vectors
from ptl_prefix.serving.router import Router, Scorer, Scores

_OWN_WEIGHT = 0.5
"""Weight of a task's own variance; the rest is the tasks' mean, as 200 inputs state a variance only roughly."""
_BACKGROUND_VARIANCE = 1.02
"""Factor of the background's variance. Without it a single task would be its own background, and cover every text."""
_LEAST_VARIANCE = 1e-8

VectorOf = Callable[[str], npt.NDArray[np.float32]]
"""A function from a text to the bare backbone's mean hidden state; in a server, the engine computes it."""


class HiddenStateRouter(Router[Vectors]):
    """A router by hidden states; see `Router`.

    Args:
        vector_of: Function that computes the hidden state of a text.
        wrong_refusals: As in `Router`.
    """

    def __init__(self, *, vector_of: VectorOf, wrong_refusals: float) -> None:
        super().__init__(wrong_refusals=wrong_refusals)
        self._vector_of = vector_of

    def _scorer(self, facts: Sequence[RoutingFacts]) -> Scorer[Vectors]:
        return _GaussianScorer([_states(one) for one in facts])

    def _features(self, text: str) -> Vectors:
        return self._vector_of(text)[None]

    def _validation(self, facts: RoutingFacts) -> Vectors:
        return _states(facts).validation

    def _validation_rows(self, facts: RoutingFacts) -> Vectors:
        return _states(facts).validation

    def _reason_against(self, facts: RoutingFacts | None, others: Sequence[RoutingFacts]) -> str | None:
        if facts is not None and facts.states is None:
            return "was exported without hidden states (routing=hidden_states)"
        if facts is not None and others and len(_states(facts).mean) != len(_states(others[0]).mean):
            return "has hidden states of another width than the other tasks"
        return super()._reason_against(facts, others)


def _states(facts: RoutingFacts) -> StateFacts:
    assert facts.states is not None  # `_reason_against` refuses facts without
    return facts.states


class _GaussianScorer:
    """Log-odds of hidden states.

    Args:
        states: Hidden states of each task, at least one.
    """

    def __init__(self, states: Sequence[StateFacts]) -> None:
        self._means = np.stack([one.mean for one in states]).astype(np.float64)  # (tasks, width)
        own = np.stack([one.deviation for one in states]).astype(np.float64) ** 2
        within = own.mean(axis=0)
        self._variances = _OWN_WEIGHT * own + (1 - _OWN_WEIGHT) * within + _LEAST_VARIANCE
        self._centre = self._means.mean(axis=0)
        self._background = (within + self._means.var(axis=0)) * _BACKGROUND_VARIANCE + _LEAST_VARIANCE

    def scores(self, features: Vectors) -> Scores:
        """The mean log-odds over the dimensions of each text for each task, (texts, tasks)."""
        return np.stack([self.own_scores(features, task) for task in range(len(self._means))], axis=1)

    def own_scores(self, features: Vectors, task: int) -> Scores:
        """The column of `scores` of one task."""
        mean, variance = self._means[task], self._variances[task]
        background = (features - self._centre) ** 2 / self._background + np.log(self._background)
        log_odds = (background - (features - mean) ** 2 / variance - np.log(variance)).mean(axis=1) / 2
        return np.where(np.any(features != 0, axis=1), log_odds, -np.inf)
