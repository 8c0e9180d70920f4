"""The samplers: one class for each choice of `hydra/sweeper/sampler`.

In: settings. Out: Optuna's sampler, or the answer that the points are listed and taken in order. A new sampler with its
own seed is made for each point, so that workers in parallel do not draw the same numbers, and a resumed study does not
repeat its draws.
"""

import importlib.util
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from annotated_types import Ge

from ptl_prefix.settings import settings_from

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

Seed = Annotated[int, Ge(0)]


class Sampler(Protocol):
    """Chooses the points of a study."""

    lists_points: bool
    """Whether every point of the space is taken once, in order; Optuna's samplers are not used then."""
    seed: int

    def shuffles(self) -> bool:
        """Whether that order is random."""

    def make(self, draw: int) -> "BaseSampler":
        """Optuna's sampler for the `draw`-th point."""


class _OptunaSampler:
    """Base of the samplers that draw points with one of Optuna's."""

    lists_points = False
    seed = 0

    def shuffles(self) -> bool:
        """False: there is no list of points."""
        return False

    def _seed(self, draw: int) -> int:
        return (self.seed * 1_000_003 + draw) % 2**32


class Tpe(_OptunaSampler):
    """Tree-structured Parzen estimators (Bergstra et al., 2011).

    Args:
        seed: Random seed.
        n_startup_trials: Random points before the model is used.
        multivariate: Whether dependencies between the keys are modelled.
    """

    @settings_from("hydra/sweeper/sampler/tpe")
    def __init__(self, *, seed: Seed, n_startup_trials: Annotated[int, Ge(0)], multivariate: bool) -> None:
        self.seed, self._options = seed, {"n_startup_trials": n_startup_trials, "multivariate": multivariate}

    def make(self, draw: int) -> "BaseSampler":
        """Optuna's sampler for the `draw`-th point."""
        import warnings

        from optuna.exceptions import ExperimentalWarning
        from optuna.samplers import TPESampler

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return TPESampler(seed=self._seed(draw), **self._options)  # type: ignore[arg-type]


class Gp(_OptunaSampler):
    """A Gaussian process; imports torch when it draws the first point.

    Args:
        seed: Random seed.
        n_startup_trials: Random points before the model is used.
    """

    @settings_from("hydra/sweeper/sampler/gp")
    def __init__(self, *, seed: Seed, n_startup_trials: Annotated[int, Ge(0)]) -> None:
        self.seed, self._n_startup_trials = seed, n_startup_trials

    def problems(self) -> list[str]:
        """A sentence for each package that is not installed."""
        return _missing("gp", "scipy", "torch")

    def make(self, draw: int) -> "BaseSampler":
        """Optuna's sampler for the `draw`-th point."""
        from optuna.samplers import GPSampler

        return GPSampler(
            seed=self._seed(draw), n_startup_trials=self._n_startup_trials, warn_independent_sampling=False
        )


class CmaEs(_OptunaSampler):
    """CMA-ES (Hansen), for ranges of numbers; lists of values are sampled at random.

    Args:
        seed: Random seed.
        n_startup_trials: Random points before the model is used.
    """

    @settings_from("hydra/sweeper/sampler/cmaes")
    def __init__(self, *, seed: Seed, n_startup_trials: Annotated[int, Ge(0)]) -> None:
        self.seed, self._n_startup_trials = seed, n_startup_trials

    def problems(self) -> list[str]:
        """A sentence for each package that is not installed."""
        return _missing("cmaes", "cmaes")

    def make(self, draw: int) -> "BaseSampler":
        """Optuna's sampler for the `draw`-th point."""
        from optuna.samplers import CmaEsSampler

        return CmaEsSampler(
            seed=self._seed(draw), n_startup_trials=self._n_startup_trials, warn_independent_sampling=False
        )


class RandomPoints(_OptunaSampler):
    """Uniformly random points.

    Args:
        seed: Random seed.
    """

    @settings_from("hydra/sweeper/sampler/random")
    def __init__(self, *, seed: Seed) -> None:
        self.seed = seed

    def make(self, draw: int) -> "BaseSampler":
        """Optuna's sampler for the `draw`-th point."""
        from optuna.samplers import RandomSampler

        return RandomSampler(seed=self._seed(draw))


class Grid:
    """Every point once, in the order in which the values are written."""

    lists_points = True
    seed = 0

    @settings_from("hydra/sweeper/sampler/grid")
    def __init__(self) -> None: ...

    def shuffles(self) -> bool:
        """False: the order is the written one."""
        return False

    def make(self, draw: int) -> Any:
        """Never called, since the points are listed."""
        raise AssertionError("the points are listed, so there is no sampler of Optuna's")


class Exhaustive(Grid):
    """Every point once, in random order, so that a search that is cut short has covered the whole space.

    Args:
        seed: Random seed of the order.
    """

    @settings_from("hydra/sweeper/sampler/exhaustive")
    def __init__(self, *, seed: Seed) -> None:
        self.seed = seed

    def shuffles(self) -> bool:
        """True."""
        return True


def _missing(extra: str, *modules: str) -> list[str]:
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    return [
        f"The sampler `{extra}` needs {module}, which is not installed; run pip install 'ptl-prefix[{extra}]'."
        for module in missing
    ]
