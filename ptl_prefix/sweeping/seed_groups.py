"""Trials that differ in their seeds alone, which are one setting of a search.

In: an arm and its trials. Out: a `SeedGroup` for each setting, with the mean over its seeds; or the trials that stand
for the best settings. The best single trial of such a search would be the luckiest seed, not the best setting.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ptl_prefix.sweeping.study_spec import Arm
from ptl_prefix.sweeping.trial import Trial, best_of


@dataclass(frozen=True, kw_only=True)
class SeedGroup:
    """The finished trials of one setting.

    Args:
        trials: The trials, one for each seed or combination of seeds.
        values: Their objectives.
        mean: Mean of `values`.
        deviation: Standard deviation of `values`; `None` for a single one.
    """

    trials: Sequence[Trial]
    values: Sequence[float]
    mean: float
    deviation: float | None


def is_seed(key: str) -> bool:
    """Whether a searched key is a seed, such as `seed` or `task.subset_seed`."""
    name = key.rpartition(".")[2]
    return name == "seed" or name.endswith("_seed")


def searched_settings(arm: Arm) -> list[str]:
    """The searched keys of an arm that are no seeds."""
    return [key for key in arm.space.dimensions if not is_seed(key)]


def seed_groups(arm: Arm, trials: Sequence[Trial], sign: int) -> list[SeedGroup]:
    """The settings of an arm that searches over seeds: those with the most finished seeds first, then by their mean.

    Args:
        arm: The arm.
        trials: Trials of the arm in any state.
        sign: 1 if a smaller objective is better, -1 if a greater one is.

    Returns:
        An empty list if the arm does not search over seeds.
    """
    settings = searched_settings(arm)
    if len(settings) == len(arm.space.dimensions):
        return []
    of_setting: dict[str, list[Trial]] = {}
    for trial in trials:
        if trial.state == "finished" and trial.value is not None:
            of_setting.setdefault(repr([trial.params.get(key) for key in settings]), []).append(trial)
    groups = [_group(members) for members in of_setting.values()]
    return sorted(groups, key=lambda one: (-len(one.values), sign * one.mean))


def best_settings(arm: Arm, trials: Sequence[Trial], sign: int, count: int) -> list[Trial]:
    """One trial of each of the best settings of an arm, the best first.

    Args:
        arm: The arm.
        trials: Trials of the arm in any state.
        sign: 1 if a smaller objective is better, -1 if a greater one is.
        count: Number of settings.

    Returns:
        The first trial of each setting if the arm searches over seeds, as its settings are compared by their means; the
        best trials otherwise.
    """
    groups = seed_groups(arm, trials, sign)
    best = [group.trials[0] for group in groups] or best_of(trials, sign)
    return best[:count]


def _group(trials: Sequence[Trial]) -> SeedGroup:
    values = [trial.value or 0.0 for trial in trials]
    return SeedGroup(
        trials=trials,
        values=values,
        mean=statistics.fmean(values),
        deviation=statistics.stdev(values) if len(values) > 1 else None,
    )
