"""The pruners: one class for each choice of `hydra/sweeper/pruner`.

In: settings. Out: Optuna's pruner; or, for successive halving, the steps at which a trial pauses. That one is our own
(see `promotion.py`): a prefix's checkpoint is small, so a paused trial costs nothing and can be resumed later.
"""

from typing import TYPE_CHECKING, Annotated, Protocol

from annotated_types import Ge, Gt, Le

from ptl_prefix.settings import settings_from

if TYPE_CHECKING:
    from optuna.pruners import BasePruner

Steps = Annotated[int, Ge(0)]


class Pruner(Protocol):
    """Decides after each validation whether a trial stops early."""

    prunes: bool
    """Whether it can stop a trial; if not, the objective may be any metric."""

    def make(self, max_steps: int) -> "BasePruner":
        """Optuna's pruner for trials of `max_steps` optimizer steps."""

    def rungs(self, max_steps: int) -> list[int]:
        """The steps at which trials pause until they are promoted."""


class NoPruner:
    """Every trial runs to its end."""

    prunes = False

    @settings_from("hydra/sweeper/pruner/none")
    def __init__(self) -> None: ...

    def make(self, max_steps: int) -> "BasePruner":
        """Optuna's pruner that never prunes."""
        from optuna.pruners import NopPruner

        return NopPruner()

    def rungs(self, max_steps: int) -> list[int]:
        """No rungs."""
        return []


class Percentile:
    """Prunes a trial that is not among the best `percentile` percent at the same step; 50 is the median rule.

    Args:
        percentile: Percentage of the trials at a step that continue.
        n_startup_trials: Trials that must have finished before any trial is pruned.
        n_warmup_steps: Optimizer steps before which no trial is pruned.
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
        """No rungs."""
        return []


class Hyperband:
    """Optuna's Hyperband (Li et al., 2018): several brackets of successive halving, which prune without pausing.

    Args:
        min_resource: Optimizer steps before which no trial is pruned.
        reduction_factor: One in this many trials continues beyond a rung.
    """

    prunes = True

    @settings_from("hydra/sweeper/pruner/hyperband")
    def __init__(self, *, min_resource: Annotated[int, Ge(1)], reduction_factor: Annotated[int, Ge(2)]) -> None:
        self._min_resource, self._reduction_factor = min_resource, reduction_factor

    def make(self, max_steps: int) -> "BasePruner":
        """Optuna's Hyperband pruner."""
        from optuna.pruners import HyperbandPruner

        return HyperbandPruner(
            min_resource=self._min_resource, max_resource=max_steps, reduction_factor=self._reduction_factor
        )

    def rungs(self, max_steps: int) -> list[int]:
        """No rungs."""
        return []


class SuccessiveHalving(NoPruner):
    """Asynchronous successive halving that pauses and promotes (Li et al., 2020, section 3).

    A trial pauses at each rung unless it is among the best there, and is resumed from its checkpoint as soon as it is.
    Trials that are never promoted are pruned at the end of the search.

    Args:
        min_steps: Optimizer steps of the first rung.
        reduction_factor: One in this many trials is promoted from a rung.
    """

    prunes = True

    @settings_from("hydra/sweeper/pruner/successive_halving")
    def __init__(self, *, min_steps: Annotated[int, Ge(1)], reduction_factor: Annotated[int, Ge(2)]) -> None:
        self._min_steps, self.reduction_factor = min_steps, reduction_factor

    def rungs(self, max_steps: int) -> list[int]:
        """`min_steps`, then `reduction_factor` times as many at each rung, below `max_steps`."""
        rungs, step = [], self._min_steps
        while step < max_steps:
            rungs.append(step)
            step *= self.reduction_factor
        return rungs
