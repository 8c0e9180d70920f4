"""Chooses the Hydra sweeper that runs the jobs of a command line.

In: a verb's overrides, some of which have several values, and Hydra's flags. Out: `ChosenSweeper`: the composed `hydra`
node and the overrides that make Hydra use it. Ours replaces Hydra's basic sweeper, whose jobs share one process.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from omegaconf import DictConfig

from ptl_prefix.commands.config.arguments import HydraFlags
from ptl_prefix.commands.config.compose import check_here, compose_unchecked, composed_for_study
from ptl_prefix.commands.config.verb import Verb
from ptl_prefix.commands.sweep.parse_space import as_choice, is_swept

OUR_SWEEPER = "hydra_plugins.ptl_prefix_sweeper.StudySweeper"
_BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
_GROUP = "hydra/sweeper"


@dataclass(frozen=True)
class ChosenSweeper:
    """The sweeper of a command line.

    Args:
        hydra: The `hydra` node of the config, composed without the swept overrides; `None` if it does not compose.
        overrides: Additional overrides that make Hydra use our sweeper.
        single: The overrides with one value, in the form in which Hydra accepts them without the swept ones.
    """

    hydra: DictConfig | None
    overrides: tuple[str, ...]
    single: tuple[str, ...]

    @property
    def warm(self) -> bool:
        """Whether trials start from a warm trial server of this process; false while that setting is not valid."""
        sweeper = {} if self.hydra is None else self.hydra.sweeper
        return sweeper.get("warm") is True and sweeper.get("executor", "local") == "local"


def choose_sweeper(verb: Verb, overrides: Sequence[str], flags: HydraFlags) -> ChosenSweeper:
    """Our grid sweeper in place of Hydra's basic one, unless the command line chooses a sweeper.

    Raises:
        ConfigError: If the overrides with one value do not compose, whatever the swept ones are.
    """
    single = tuple(text for text in overrides if not is_swept(text))
    hydra = composed_for_study(verb, single, flags)
    is_chosen = any(text.startswith(f"{_GROUP}=") for text in overrides)
    # Without a composed config a setting of our sweeper may be the reason, so ours is tried in that case too.
    is_other = hydra is not None and hydra.sweeper._target_ != _BASIC_SWEEPER
    added = () if is_chosen or is_other else (f"{_GROUP}=grid",)
    if added:
        hydra = composed_for_study(verb, (*added, *single), flags)
    if hydra is None and len(single) < len(overrides):
        # A key may exist only with a swept choice, for example with one of several experiments.
        single = _single_with_swept(verb, overrides, flags)
        hydra = composed_for_study(verb, (*added, *single), flags)
    return ChosenSweeper(hydra, added, single)


def _single_with_swept(verb: Verb, overrides: Sequence[str], flags: HydraFlags) -> tuple[str, ...]:
    listed = tuple(as_choice(text, flags.config_dir) if is_swept(text) else text for text in overrides)
    composed = compose_unchecked(verb, listed, flags, check_here)
    if composed.has_refused_overrides:
        composed.checked()  # raises these and every other mistake; otherwise the values are checked later
    return tuple(
        text for text, given in zip(composed.accepted_overrides, overrides, strict=True) if not is_swept(given)
    )
