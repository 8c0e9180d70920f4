"""Finds the user's own `./conf`, which is used where no folder of configs is named."""

from ptl_prefix import settings
from ptl_prefix.commands.config.arguments import HydraFlags


def with_working_configs(flags: HydraFlags) -> HydraFlags:
    """The flags, with `--config-dir` naming `./conf` if there is such a folder and no other one is named."""
    folder = settings.working_dir_of("conf")
    if folder is None or flags.config_dir is not None:
        return flags
    return HydraFlags((*flags.given, ("--config-dir", str(folder))))
