"""Proposes the point of a new trial.

In: an arm and its trials. Out: a new trial of Optuna's at a point that is new where the points can be listed: after a
sampler has repeated a point, one of the remaining points is drawn instead.
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
from ptl_prefix.sweeping.trial_store import TrialStore, tried_points

_ARM_SEED_DISTANCE = 100_003
"""Distance between the seeds of two arms, which must not draw the same numbers."""


class Proposer:
    """Asks the sampler for points.

    Args:
        store: The study's trials.
        sampler: Chooses the points.
        pruner: Handed to Optuna's samplers, which leave out the trials of Hyperband's other brackets.
        max_steps: Optimizer steps of a trial's training.
    """

    def __init__(self, store: TrialStore, sampler: Sampler, pruner: Pruner, max_steps: int) -> None:
        self._store, self._sampler, self._pruner, self._max_steps = store, sampler, pruner, max_steps

    def propose(self, arm: Arm, trials: Sequence[Trial]) -> tuple[Trial, tuple[str, ...]]:
        """Start a trial at a new point.

        Args:
            arm: The arm of the trial.
            trials: The arm's trials so far.

        Returns:
            The trial and the overrides of its point. The sampler may have repeated a point: the caller then discards
            the trial, and the next proposal is a new point.
        """
        num_repeats = sum(1 for _ in itertools.takewhile(lambda one: one.state == "discarded", reversed(trials)))
        if self._uses_list(arm) or (arm.space.size is not None and num_repeats):
            study = self._store.optuna_study(arm.name)
            study.enqueue_trial(dict(next(self._untried_points(arm, trials))))
        else:
            index = [one.name for one in self._store.spec.arms].index(arm.name)
            sampler = self._sampler.make(len(trials) + _ARM_SEED_DISTANCE * index)
            study = self._store.sampled_study(arm.name, sampler, self._pruner.make(self._max_steps))
        new = study.ask(fixed_distributions=arm.space.distributions())
        return self._store.trial(arm.name, new._trial_id), self.overrides(arm, new.params)

    def overrides(self, arm: Arm, point: Point) -> tuple[str, ...]:
        """The overrides of a point. The confirmation's are a candidate's, with another seed and `confirm_overrides`."""
        if arm.name != CONFIRM:
            return arm.space.overrides(point)
        name, _, number = str(point["candidate"]).rpartition("/")
        (trial,) = (one for one in self._store.trials(name) if one.number == int(number))
        own = [text for text in trial.overrides if not text.startswith("seed=")]
        spec = self._store.spec
        return (*spec.arm(name).overrides, *own, f"seed={point['seed']}", *spec.confirm_overrides)

    def _uses_list(self, arm: Arm) -> bool:
        return arm.name == CONFIRM or self._sampler.lists_points

    def _untried_points(self, arm: Arm, trials: Sequence[Trial]) -> Iterator[Point]:
        """The points without a trial, in the sampler's order or a random one."""
        points = list(arm.space.points())
        if not self._uses_list(arm) or (arm.name != CONFIRM and self._sampler.shuffles()):
            # Shuffling all points, not only the untried ones, keeps the order the same throughout the study.
            random.Random(self._sampler.seed).shuffle(points)
        tried = tried_points(trials)
        return (point for point in points if self.overrides(arm, point) not in tried)
