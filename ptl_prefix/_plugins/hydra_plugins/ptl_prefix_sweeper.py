"""Our plugins for Hydra: the sweeper that runs studies, and the search path of the predefined studies in `sweeps/`.

In: Hydra's call for the jobs of a multirun. Out: the study ran or was resumed. Hydra 1.3 finds plugins only in the
namespace `hydra_plugins`; `commands/config/plugins.py` adds this folder to it.
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
    """Runs a study.

    Args:
        values: The settings of `hydra.sweeper`, which were parsed and checked before Hydra was started.
    """

    def __init__(self, **values: Any) -> None:
        self._values = values

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store the composed config."""
        self._config = config

    def sweep(self, arguments: list[str]) -> Any:
        """Run the study, or resume it."""
        from ptl_prefix.commands.sweep.multirun import run_study

        return run_study(self._config, arguments)


class SweepsFolder(SearchPathPlugin):
    """Makes the folder `sweeps/` a config group."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the folder, and the user's own `./sweeps`, to the search path."""
        for folder in (settings.sweeps_dir(), settings.working_dir_of("sweeps")):
            if folder is not None:
                search_path.append(provider="ptl_prefix", path=f"{SweepsSource.scheme()}://{folder.parent}")


__all__: Sequence[str] = ("StudySweeper", "SweepsFolder")
