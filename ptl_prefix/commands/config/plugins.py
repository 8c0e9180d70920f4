"""Hydra's plugins of this package.

In: nothing. Out: Hydra finds our sweeper in `ptl_prefix/_plugins/hydra_plugins`, and reads `sweeps/` as a group of
configs.
"""

import importlib
import importlib.util
import sys
from pathlib import Path

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult

from ptl_prefix.errors import ConfigError

_FOLDER = str(Path(__file__).resolve().parents[2] / "_plugins")
_OURS = "hydra_plugins.ptl_prefix_sweeper"
_OTHER = "hydra_plugins.hydra_optuna_sweeper"
_GROUP = "sweeps"


def register_plugins() -> None:
    """Let Hydra find our sweeper and `sweeps/`.

    Raises:
        ConfigError: If hydra-optuna-sweeper is installed, which takes the same name: the one that Hydra reads last
            would win.
    """
    if _FOLDER not in sys.path:
        sys.path.append(_FOLDER)
    # By name: Hydra looks for plugins once in a process, and may have done so before.
    ours = importlib.import_module(_OURS)
    for plugin in (ours.StudySweeper, ours.SweepsFolder, SweepsSource):
        Plugins.instance().register(plugin)
    if _is_installed(_OTHER):
        raise ConfigError(
            [
                "One plugin must answer to hydra/sweeper=optuna, but hydra-optuna-sweeper is installed beside ours and "
                "takes its keys; run pip uninstall hydra-optuna-sweeper."
            ]
        )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


class SweepsSource(FileConfigSource):
    """The folder that holds `sweeps/`, of which Hydra sees that one group and nothing else.

    Hydra looks for groups in the whole of a folder on its search path, which here may be a repository. This class is
    not in `_plugins/`: launchers send the registered plugins to processes that do not have that folder on their path.
    """

    @staticmethod
    def scheme() -> str:
        """The text before `://` on Hydra's search path."""
        return "ptl-prefix-sweeps"

    def is_group(self, config_path: str) -> bool:
        """Whether a path is the root or `sweeps`."""
        return config_path.strip("/") in ("", _GROUP) and super().is_group(config_path)

    def is_config(self, config_path: str) -> bool:
        """Whether a path is a config below `sweeps`."""
        return self._is_below_sweeps(config_path) and super().is_config(config_path)

    def load_config(self, config_path: str) -> ConfigResult:
        """A config below `sweeps`.

        Raises:
            ConfigLoadError: If there is none at the path.
        """
        if not self._is_below_sweeps(config_path):
            raise ConfigLoadError(f"Config not found : {config_path}")
        return super().load_config(config_path)

    def _is_below_sweeps(self, config_path: str) -> bool:
        return config_path.strip("/").startswith(f"{_GROUP}/")
