"""What Hydra sees of our sweeps: a sweeper, and where the folder `sweeps/` is.

In: Hydra's call for the jobs of a multirun. Out: the study ran, or went on. Hydra 1.3 finds plugins in the namespace
`hydra_plugins` alone; `commands/config/plugins.py` puts this folder on its way.
"""

from collections.abc import Sequence
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from ptl_prefix import settings
from ptl_prefix.commands.config.plugins import SweepsSource


class StudySweeper(Sweeper):
    """Runs a study. Its settings are read from the config by who launched Hydra, who also knows the user's own words.

    Args:
        values: Checked before Hydra was entered.
    """

    def __init__(self, **values: Any) -> None:
        self._values = values

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what is needed to run."""
        self._config = config

    def sweep(self, arguments: list[str]) -> Any:
        """Run the study, or go on with it."""
        from ptl_prefix.commands.sweep.multirun import run_study

        return run_study(self._config, arguments)


class SweepsFolder(SearchPathPlugin):
    """Makes `sweeps/` a group of configs."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Behind everything else."""
        search_path.append(provider="ptl_prefix", path=f"{SweepsSource.scheme()}://{settings.sweeps_dir().parent}")


__all__: Sequence[str] = ("StudySweeper", "SweepsFolder")
