"""How points are chosen: one class for each choice of `hydra/sweeper/sampler`.

In: settings. Out: Optuna's sampler, made anew for each point with a seed of its own, so that workers side by side do
not draw the same numbers, and a study that goes on does not draw again what it has drawn; or that points are listed and
taken in turn.
"""

import importlib.util
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from annotated_types import Ge

from ptl_prefix.settings import settings_from

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

Seed = Annotated[int, Ge(0)]


class Sampler(Protocol):
    """What a study asks for points."""

    lists_points: bool
    """Whether every point is taken once, in an order; there is no sampler of Optuna's then."""
    seed: int

    def shuffles(self) -> bool:
        """Whether that order is drawn."""

    def make(self, draw: int) -> "BaseSampler":
        """Optuna's sampler for the `draw`-th point."""


class _Drawing:
    """A sampler of Optuna's."""

    lists_points = False
    seed = 0

    def shuffles(self) -> bool:
        """Nothing is listed."""
        return False

    def _seed(self, draw: int) -> int:
        return (self.seed * 1_000_003 + draw) % 2**32


class Tpe(_Drawing):
    """Tree-structured Parzen estimators (Bergstra et al., 2011).

    Args:
        seed: Seed of the sampler.
        n_startup_trials: Points that are drawn at random first.
        multivariate: Whether dependencies between keys are modelled.
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


class Gp(_Drawing):
    """A Gaussian process; loads torch when it is first asked.

    Args:
        seed: Seed of the sampler.
        n_startup_trials: Points that are drawn at random first.
    """

    @settings_from("hydra/sweeper/sampler/gp")
    def __init__(self, *, seed: Seed, n_startup_trials: Annotated[int, Ge(0)]) -> None:
        self.seed, self._n_startup_trials = seed, n_startup_trials

    def problems(self) -> list[str]:
        """What is not installed."""
        return _missing("gp", "scipy", "torch")

    def make(self, draw: int) -> "BaseSampler":
        """Optuna's sampler for the `draw`-th point."""
        from optuna.samplers import GPSampler

        return GPSampler(
            seed=self._seed(draw), n_startup_trials=self._n_startup_trials, warn_independent_sampling=False
        )


class CmaEs(_Drawing):
    """CMA-ES (Hansen), for numbers; choices are drawn at random beside it.

    Args:
        seed: Seed of the sampler.
        n_startup_trials: Points that are drawn at random first.
    """

    @settings_from("hydra/sweeper/sampler/cmaes")
    def __init__(self, *, seed: Seed, n_startup_trials: Annotated[int, Ge(0)]) -> None:
        self.seed, self._n_startup_trials = seed, n_startup_trials

    def problems(self) -> list[str]:
        """What is not installed."""
        return _missing("cmaes", "cmaes")

    def make(self, draw: int) -> "BaseSampler":
        """Optuna's sampler for the `draw`-th point."""
        from optuna.samplers import CmaEsSampler

        return CmaEsSampler(
            seed=self._seed(draw), n_startup_trials=self._n_startup_trials, warn_independent_sampling=False
        )


class RandomPoints(_Drawing):
    """Every point alike.

    Args:
        seed: Seed of the sampler.
    """

    @settings_from("hydra/sweeper/sampler/random")
    def __init__(self, *, seed: Seed) -> None:
        self.seed = seed

    def make(self, draw: int) -> "BaseSampler":
        """Optuna's sampler for the `draw`-th point."""
        from optuna.samplers import RandomSampler

        return RandomSampler(seed=self._seed(draw))


class Grid:
    """Every point once, in the order in which they are written."""

    lists_points = True
    seed = 0

    @settings_from("hydra/sweeper/sampler/grid")
    def __init__(self) -> None: ...

    def shuffles(self) -> bool:
        """As written."""
        return False

    def make(self, draw: int) -> Any:
        """There is none."""
        raise AssertionError("points are listed")


class Exhaustive(Grid):
    """Every point once, in an order that is drawn: a search that is cut short has seen of everything.

    Args:
        seed: Seed of the order.
    """

    @settings_from("hydra/sweeper/sampler/exhaustive")
    def __init__(self, *, seed: Seed) -> None:
        self.seed = seed

    def shuffles(self) -> bool:
        """By the seed."""
        return True


def _missing(extra: str, *modules: str) -> list[str]:
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    return [
        f"The sampler {extra} needs {module}, which is not installed; run pip install 'ptl-prefix[{extra}]'."
        for module in missing
    ]
