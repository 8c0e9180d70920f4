"""The resolved config of a run: `config.yaml`, the first file that a run writes."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.artifacts.file_lock import read_unlinked
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.errors import RunError


def write_config(folder: RunFolder, config: Mapping[str, Any]) -> None:
    """Write the config, which marks the folder as a run's."""
    text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
    write_atomically(folder.config, text, follow_links=False)


def read_config(folder: RunFolder, nodes: Sequence[str] = ()) -> dict[str, Any]:
    """Read the config.

    Args:
        folder: Run folder.
        nodes: Keys of the objects that the config must describe.

    Raises:
        RunError: The file cannot be read, is a symbolic link, or lacks one of these objects.
    """
    fact = "is not a mapping"
    try:
        config = yaml.safe_load(read_unlinked(folder.config).decode("utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        config, fact = None, f"is not: {error}"
    if not isinstance(config, dict):
        raise RunError(f"A run's config must be readable, but '{folder.config}' {fact}; repeat the run.")
    for node in nodes:
        if not isinstance(config.get(node), dict) or not isinstance(config[node].get("_target_"), str):
            raise RunError(
                f"A run's config must hold an object under `{node}`, but '{folder.config}' does not; repeat the run."
            )
    return config
