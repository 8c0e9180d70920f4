"""Which task a text is of, where a request names none (`model: "auto"`).

In: the routing facts of the bundles that are served, and texts. Out: `RouteDecision`: a task, or none with the nearest
ones. A router never guesses: a text that is too unusual for every task is refused.

Each task scores a text, and the score is compared with those of the task's own validation inputs (split conformal
prediction): `coverage` is the share of them that score as low or lower, the text itself counted. A text is covered by a
task if that share is above the rate of wrong refusals; so of texts that are drawn as the validation inputs were, at
most that share is refused. Of the tasks that cover a text, the one with the highest score is chosen.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from ptl_prefix.artifacts.ngram_counts import routed_text
from ptl_prefix.artifacts.routing_facts import RoutingFacts

Scores = npt.NDArray[np.float64]
Features = TypeVar("Features")
Scored = TypeVar("Scored", contravariant=True)
_NUM_NEAREST = 3


@dataclass(frozen=True)
class TaskScore:
    """What one task says of a text.

    Args:
        name: Name of the task on this server.
        coverage: Share of the task's validation inputs that are at least as unusual for it as the text, from 0 to 1.
        log_odds: Log-odds of the text for the task against all tasks together, for each word or dimension.
    """

    name: str
    coverage: float
    log_odds: float


@dataclass(frozen=True)
class RouteDecision:
    """Where a text goes.

    Args:
        name: Name of the task; `None` if no task covers the text.
        scores: Every task's score, the nearest task first.
    """

    name: str | None
    scores: tuple[TaskScore, ...]

    @property
    def refusal(self) -> str:
        """A sentence for the client of a text that no task covers, with the nearest tasks."""
        nearest = ", ".join(f"{one.name} ({one.coverage:.3f})" for one in self.scores[:_NUM_NEAREST])
        return (
            "With `model` auto, a text must be like the inputs of a task of this server, but this one is not; nearest, "
            f"with the share of the task's own inputs that are as unusual: {nearest or 'none'}. Name a task as `model`."
        )


class Scorer(Protocol[Scored]):
    """Scores texts for the tasks that it was made of. It never changes."""

    def scores(self, features: Scored) -> Scores:
        """The log-odds of each text for each task, (texts, tasks); minus infinity for a text without features."""

    def own_scores(self, features: Scored, task: int) -> Scores:
        """The log-odds of each text for one task, by its index: a column of `scores`."""


@dataclass(frozen=True)
class _Snapshot(Generic[Features]):
    """Everything that one decision needs; it is replaced as a whole when bundles are loaded or unloaded.

    Args:
        names: Names of the tasks.
        scorer: Scorer of these tasks.
        calibrations: For each task, the sorted scores of its validation inputs.
    """

    names: tuple[str, ...]
    scorer: Scorer[Features]
    calibrations: tuple[Scores, ...]

    def decide(self, features: Features, wrong_refusals: float) -> RouteDecision:
        log_odds = self.scorer.scores(features)[0]
        shares = [coverage(own, score) for own, score in zip(self.calibrations, log_odds, strict=True)]
        found = map(TaskScore, self.names, shares, map(float, log_odds))
        ranked = sorted(found, key=lambda one: (one.coverage, one.log_odds), reverse=True)
        rates = {
            name: refusal_rate(len(own), wrong_refusals)
            for name, own in zip(self.names, self.calibrations, strict=True)
        }
        covering = [one for one in ranked if one.coverage > rates[one.name]]
        best = max(covering, key=lambda one: one.log_odds, default=None)
        if best is None:
            return RouteDecision(None, tuple(ranked))
        return RouteDecision(best.name, (best, *(one for one in ranked if one is not best)))


def coverage(calibration: Scores, score: float) -> float:
    """The conformal p-value of a score: the share of the sorted calibration scores up to it, itself counted."""
    return (1 + int(np.searchsorted(calibration, score, side="right"))) / (len(calibration) + 1)


def refusal_rate(num_validation: int, wrong_refusals: float) -> float:
    """The rate of wrong refusals of a task: the wanted one, or the smallest that so few validation inputs allow."""
    return max(wrong_refusals, 1 / (num_validation + 1))


class Router(ABC, Generic[Features]):
    """Chooses a task for a text. Any thread may call it while another one loads and unloads bundles.

    Args:
        wrong_refusals: Rate at which texts of a task may be refused, above 0 and below 1; 0.05 needs 19 validation
            inputs in each bundle, and a bundle with fewer has a higher rate, one in their number plus one.
    """

    def __init__(self, *, wrong_refusals: float) -> None:
        if not 0 < wrong_refusals < 1:
            raise ValueError(f"`wrong_refusals` must be above 0 and below 1, but is {wrong_refusals}.")
        self.wrong_refusals = wrong_refusals
        self._facts: dict[str, RoutingFacts] = {}
        self._snapshot: _Snapshot[Features] | None = None
        self._updating = threading.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tasks that texts are routed to."""
        snapshot = self._snapshot
        return () if snapshot is None else snapshot.names

    def update(
        self, loaded: Mapping[str, RoutingFacts | None] | None = None, unloaded: Iterable[str] = ()
    ) -> dict[str, str]:
        """Add, replace and remove tasks, all at once: a decision sees the tasks before or after, never between.

        Args:
            loaded: Facts by the name of the task; `None` for a bundle that has none.
            unloaded: Names of tasks that are gone.

        Returns:
            For each loaded task that texts are not routed to, the reason as the end of a sentence.
        """
        with self._updating:
            facts = {name: one for name, one in self._facts.items() if name not in {*unloaded}}
            reasons: dict[str, str] = {}
            for name, one in (loaded or {}).items():
                facts.pop(name, None)
                reason = self._reason_against(one, list(facts.values()))
                if one is None or reason is not None:
                    reasons[name] = reason or "was exported without routing"
                else:
                    facts[name] = one
            self._facts, self._snapshot = facts, self._fitted(facts)
            return reasons

    def choose(self, text: str) -> RouteDecision:
        """The task of a text: of a chat, the task of its last user message."""
        snapshot = self._snapshot
        if snapshot is None:
            return RouteDecision(None, ())
        return snapshot.decide(self._features(routed_text(text)), self.wrong_refusals)

    def _fitted(self, facts: Mapping[str, RoutingFacts]) -> _Snapshot[Features] | None:
        if not facts:
            return None
        scorer = self._scorer(list(facts.values()))
        own = [np.sort(scorer.own_scores(self._validation(one), index)) for index, one in enumerate(facts.values())]
        return _Snapshot(tuple(facts), scorer, tuple(own))

    def _reason_against(self, facts: RoutingFacts | None, others: Sequence[RoutingFacts]) -> str | None:
        """Why texts cannot be routed to a task, as the end of a sentence; `None` if they can."""
        if facts is None:
            return "was exported without routing"
        if len(self._validation_rows(facts)) == 0:
            return "has no validation inputs, by which a text could be refused"
        return None

    @abstractmethod
    def _scorer(self, facts: Sequence[RoutingFacts]) -> Scorer[Features]:
        """The scorer of some tasks, at least one."""

    @abstractmethod
    def _features(self, text: str) -> Features:
        """The features of one text."""

    @abstractmethod
    def _validation(self, facts: RoutingFacts) -> Features:
        """The features of a task's validation inputs."""

    @abstractmethod
    def _validation_rows(self, facts: RoutingFacts) -> Any:
        """Something whose length is the number of a task's validation inputs."""
