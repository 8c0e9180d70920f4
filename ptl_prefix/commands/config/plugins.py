"""Hydra's way to our plugins, and past another's.

In: nothing. Out: Hydra finds `ptl_prefix/_plugins/hydra_plugins`, installed or in a checkout.
"""

import importlib
import importlib.util
import sys
from pathlib import Path

from hydra.core.plugins import Plugins

from ptl_prefix.commands.config.sweeps_source import SweepsSource
from ptl_prefix.errors import ConfigError

_FOLDER = str(Path(__file__).resolve().parents[2] / "_plugins")
_OURS = "hydra_plugins.ptl_prefix_sweeper"
_OTHER = "hydra_plugins.hydra_optuna_sweeper"


def make_plugins_known() -> None:
    """Let Hydra find our sweeper.

    Raises:
        ConfigError: Beside the stock plugin, which takes the same name: the last one that Hydra reads would win.
    """
    if _FOLDER not in sys.path:
        sys.path.append(_FOLDER)
    # By name: Hydra looks for plugins once in a process, and may have done so before.
    ours = importlib.import_module(_OURS)
    for plugin in (ours.StudySweeper, ours.SweepsFolder, SweepsSource):
        Plugins.instance().register(plugin)
    if _is_there(_OTHER):
        raise ConfigError(
            [
                "One plugin must answer to hydra/sweeper=optuna, but hydra-optuna-sweeper is installed beside ours and "
                "takes its keys; run pip uninstall hydra-optuna-sweeper."
            ]
        )


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
