"""What Hydra sees of our sweeps: a sweeper, and where the folder `sweeps/` is.

In: Hydra's call for the jobs of a multirun. Out: the study ran, or went on. Hydra 1.3 finds plugins in the namespace
`hydra_plugins` alone; `commands/plugins.py` puts this folder on its way.
"""

import builtins
from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from ptl_prefix import settings

_GROUP = "sweeps"


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
        from ptl_prefix.commands.launching import run_study

        return run_study(self._config, arguments)


class SweepsSource(FileConfigSource):
    """The folder beside `sweeps/`, of which nothing else is seen: Hydra would look for groups in all of it."""

    @staticmethod
    def scheme() -> str:
        """What stands before `://` on the search path."""
        return "ptl-prefix-sweeps"

    def is_group(self, config_path: str) -> bool:
        """The root, and `sweeps`."""
        return config_path.strip("/") in ("", _GROUP) and super().is_group(config_path)

    def is_config(self, config_path: str) -> bool:
        """What is in `sweeps`."""
        return self._is_ours(config_path) and super().is_config(config_path)

    def load_config(self, config_path: str) -> ConfigResult:
        """One of `sweeps`.

        Raises:
            ConfigLoadError: If it is not there.
        """
        if not self._is_ours(config_path):
            raise ConfigLoadError(f"Config not found : {config_path}")
        return super().load_config(config_path)

    def list(self, config_path: str, results_filter: ObjectType | None) -> "builtins.list[str]":
        """In the root only `sweeps`."""
        if config_path.strip("/"):
            return super().list(config_path, results_filter)
        return [] if results_filter == ObjectType.CONFIG else [_GROUP]

    def _is_ours(self, config_path: str) -> bool:
        return config_path.strip("/").startswith(f"{_GROUP}/")


class SweepsFolder(SearchPathPlugin):
    """Makes `sweeps/` a group of configs."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Behind everything else."""
        search_path.append(provider="ptl_prefix", path=f"{SweepsSource.scheme()}://{settings.sweeps_dir().parent}")


__all__: Sequence[str] = ("StudySweeper", "SweepsFolder", "SweepsSource")
