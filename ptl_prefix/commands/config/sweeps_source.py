"""Where Hydra reads `sweeps/` from, and sees nothing of what lies beside it.

In: the folder that holds `sweeps/`. Out: a source of configs with that one group. Hydra looks for groups in all of a
folder on its search path, which here may be a whole repository. Not among the plugins: launchers send what Hydra has
registered to processes that know nothing of their folder.
"""

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.plugins.config_source import ConfigLoadError, ConfigResult

_GROUP = "sweeps"


class SweepsSource(FileConfigSource):
    """The folder that holds `sweeps/`; a listing has what is a group or a config, and so nothing else."""

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

    def _is_ours(self, config_path: str) -> bool:
        return config_path.strip("/").startswith(f"{_GROUP}/")
