"""What every command line and every call from Python leaves out: the user's own `./conf`, and a backbone's group.

In: overrides and flags as the user gave them. Out: overrides and flags that Hydra can compose.
"""

from dataclasses import replace

from ptl_prefix import settings
from ptl_prefix.commands.config.arguments import CommandLine, HydraFlags


def completed(line: CommandLine) -> CommandLine:
    """The line with `--config-dir` naming `./conf`, and with `backbone=<path>` as a choice of its group and a path."""
    line = replace(line, flags=_with_working_configs(line.flags))
    if not any(override.startswith("backbone=") for override in line.overrides):
        return line
    # Imported here: it imports Hydra, which takes a third of a second.
    from ptl_prefix.commands.config.backbone_folder import with_backbone_folder

    return replace(line, overrides=with_backbone_folder(line.overrides, line.flags.config_dir))


def _with_working_configs(flags: HydraFlags) -> HydraFlags:
    """The flags, with `./conf` if there is such a folder and no other one is named."""
    folder = settings.working_dir_of("conf")
    if folder is None or flags.config_dir is not None:
        return flags
    return HydraFlags((*flags.given, ("--config-dir", str(folder))))
