"""The resolved config of a run: `config.yaml`, the first file that a run writes."""

from collections.abc import Mapping
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


def read_config(folder: RunFolder) -> dict[str, Any]:
    """Read the config.

    Raises:
        RunError: The file cannot be read, or is a symbolic link.
    """
    fact = "is not a mapping"
    try:
        config = yaml.safe_load(read_unlinked(folder.config).decode("utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        config, fact = None, f"is not: {error}"
    if not isinstance(config, dict):
        raise RunError(f"A run's config must be readable, but '{folder.config}' {fact}; repeat the run.")
    return config
