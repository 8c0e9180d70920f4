"""When a trial is not worth going on with: one class for each choice of `hydra/sweeper/pruner`.

In: settings. Out: Optuna's pruner; or, of successive halving, the steps at which a trial pauses. That one is our own: a
prefix's checkpoint is small, so a trial that waits costs nothing, and goes on when it turns out to be among the best.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Protocol

from annotated_types import Ge, Gt, Le

from ptl_prefix.settings import settings_from

if TYPE_CHECKING:
    from optuna.pruners import BasePruner

Steps = Annotated[int, Ge(0)]


class Pruner(Protocol):
    """What a study asks after each validation."""

    prunes: bool
    """Whether it ever does; a study without pruning has any objective."""

    def make(self, max_steps: int) -> "BasePruner":
        """Optuna's, for trials of so many steps."""

    def rungs(self, max_steps: int) -> list[int]:
        """The steps at which trials pause until they are promoted."""


class NoPruner:
    """Every trial runs to its end."""

    prunes = False

    @settings_from("hydra/sweeper/pruner/none")
    def __init__(self) -> None: ...

    def make(self, max_steps: int) -> "BasePruner":
        """One that never prunes."""
        from optuna.pruners import NopPruner

        return NopPruner()

    def rungs(self, max_steps: int) -> list[int]:
        """None."""
        return []


class Percentile:
    """Prunes what is not among the best `percentile` percent at the same step; 50 is the median rule.

    Args:
        percentile: Percentage of the trials that reached the same step, the best of which continue.
        n_startup_trials: Trials that must have finished before anything is pruned.
        n_warmup_steps: Optimizer steps before which nothing is pruned.
    """

    prunes = True

    @settings_from("hydra/sweeper/pruner/percentile")
    def __init__(
        self, *, percentile: Annotated[float, Gt(0), Le(100)], n_startup_trials: Steps, n_warmup_steps: Steps
    ) -> None:
        self._percentile, self._n_startup_trials, self._n_warmup_steps = percentile, n_startup_trials, n_warmup_steps

    def make(self, max_steps: int) -> "BasePruner":
        """Optuna's percentile pruner."""
        from optuna.pruners import PercentilePruner

        return PercentilePruner(self._percentile, self._n_startup_trials, self._n_warmup_steps)

    def rungs(self, max_steps: int) -> list[int]:
        """None."""
        return []


class Hyperband:
    """Several brackets of successive halving, as Optuna has it (Li et al., 2018): what falls behind is pruned.

    Args:
        min_resource: Optimizer steps before which nothing is pruned.
        reduction_factor: Number of trials at a rung for each one that continues.
    """

    prunes = True

    @settings_from("hydra/sweeper/pruner/hyperband")
    def __init__(self, *, min_resource: Annotated[int, Ge(1)], reduction_factor: Annotated[int, Ge(2)]) -> None:
        self._min_resource, self._reduction_factor = min_resource, reduction_factor

    def make(self, max_steps: int) -> "BasePruner":
        """Optuna's."""
        from optuna.pruners import HyperbandPruner

        return HyperbandPruner(
            min_resource=self._min_resource, max_resource=max_steps, reduction_factor=self._reduction_factor
        )

    def rungs(self, max_steps: int) -> list[int]:
        """None."""
        return []


class SuccessiveHalving(NoPruner):
    """Asynchronous successive halving that pauses and promotes (Li et al., 2020, section 3).

    A trial pauses at each rung unless it is among the best there already, and goes on from its checkpoint as soon as it
    is. At the end of the search what was never promoted is pruned.

    Args:
        min_steps: Optimizer steps of the first rung.
        reduction_factor: Number of trials at a rung for each one that continues, the best first.
    """

    prunes = True

    @settings_from("hydra/sweeper/pruner/successive_halving")
    def __init__(self, *, min_steps: Annotated[int, Ge(1)], reduction_factor: Annotated[int, Ge(2)]) -> None:
        self._min_steps, self.reduction_factor = min_steps, reduction_factor

    def rungs(self, max_steps: int) -> list[int]:
        """`min_steps`, and each time `reduction_factor` times as many, below the whole."""
        rungs, step = [], self._min_steps
        while step < max_steps:
            rungs.append(step)
            step *= self.reduction_factor
        return rungs


def is_promoted(value: float, others: Sequence[float], reduction_factor: int) -> bool:
    """Whether a trial is among the best one in `reduction_factor` of those that reached its rung.

    Args:
        value: The trial's, less being better.
        others: Those of the other trials that reached the rung.
        reduction_factor: One in so many.
    """
    num_promoted = (len(others) + 1) // reduction_factor
    return sum(other < value for other in others) < num_promoted
