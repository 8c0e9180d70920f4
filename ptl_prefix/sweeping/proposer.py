"""Which point is asked next.

In: an arm and the trials that it has. Out: a trial of Optuna's with a point that was never asked. Where points can be
listed a sampler that repeats itself is not asked twice: one of those that are left is drawn instead.
"""

import itertools
import random
from collections.abc import Iterator, Sequence

from ptl_prefix.artifacts.run_folder import CONFIRM
from ptl_prefix.sweeping.pruners import Pruner
from ptl_prefix.sweeping.samplers import Sampler
from ptl_prefix.sweeping.search_space import Point
from ptl_prefix.sweeping.study_spec import Arm
from ptl_prefix.sweeping.trial import Trial
from ptl_prefix.sweeping.trial_store import TrialStore, tried

_ARMS_APART = 100_003
"""Arms side by side must not draw the same numbers."""


class Proposer:
    """Draws points.

    Args:
        store: What was asked.
        sampler: Chooses points.
        pruner: Which Optuna's samplers look at, to leave out what another bracket has learnt.
        max_steps: Of a trial's training, as far as the spec says.
    """

    def __init__(self, store: TrialStore, sampler: Sampler, pruner: Pruner, max_steps: int) -> None:
        self._store, self._sampler, self._pruner, self._max_steps = store, sampler, pruner, max_steps

    def ask(self, arm: Arm, trials: Sequence[Trial]) -> tuple[Trial, tuple[str, ...]]:
        """A new trial, and what its point stands for.

        The point may still be one that was asked before: that trial is to be set aside, and the next will not be.
        """
        study = self._store.study(arm.name)
        repeats = sum(1 for _ in itertools.takewhile(lambda one: one.state == "set aside", reversed(trials)))
        if self._takes_in_turn(arm) or (arm.space.size is not None and repeats):
            study.enqueue_trial(dict(next(self._untried(arm, trials))))
        else:
            place = [one.name for one in self._store.spec.arms].index(arm.name)
            sampler = self._sampler.make(len(trials) + _ARMS_APART * place)
            study = self._store.asking(arm.name, sampler, self._pruner.make(self._max_steps))
        asked = study.ask(fixed_distributions=arm.space.distributions())
        (trial,) = (one for one in self._store.trials(arm.name) if one.number == asked.number)
        return trial, self.overrides(arm, asked.params)

    def overrides(self, arm: Arm, point: Point) -> tuple[str, ...]:
        """What a point stands for. That of a confirmation is what its candidate was, with another seed."""
        if arm.name != CONFIRM:
            return arm.space.overrides(point)
        name, _, number = str(point["candidate"]).rpartition("/")
        (trial,) = (one for one in self._store.trials(name) if one.number == int(number))
        own = [text for text in trial.overrides if not text.startswith("seed=")]
        return (*self._store.spec.arm(name).overrides, *own, f"seed={point['seed']}")

    def _takes_in_turn(self, arm: Arm) -> bool:
        return arm.name == CONFIRM or self._sampler.lists_points

    def _untried(self, arm: Arm, trials: Sequence[Trial]) -> Iterator[Point]:
        """The points that were never asked, in the order of the sampler, or in one that is drawn."""
        points = list(arm.space.points())
        if not self._takes_in_turn(arm) or (arm.name != CONFIRM and self._sampler.shuffles()):
            # All of them, not those that are left: the order stays the same as they are taken.
            random.Random(self._sampler.seed).shuffle(points)
        asked = tried(trials)
        return (point for point in points if self.overrides(arm, point) not in asked)
