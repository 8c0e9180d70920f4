"""Lets every verb take `backbone=<path>`, short for `backbone=local backbone.path=<path>`, or `backbone=gguf ...`.

In: overrides. Out: overrides that Hydra can compose, as its groups take only the names of their choices.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from ptl_prefix.backbones.package_file import is_gguf_path
from ptl_prefix.commands.config import catalog
from ptl_prefix.commands.config.arguments import quoted
from ptl_prefix.commands.config.override_errors import parsed_override

_GROUP = "backbone"


def with_backbone_folder(overrides: Sequence[str], config_dir: str | None) -> tuple[str, ...]:
    """The overrides, with a backbone's folder, hub name or GGUF file written as Hydra's grammar has it.

    Args:
        overrides: Overrides as the user gave them.
        config_dir: Folder of the user's own configs, whose choices come before folders.
    """
    return tuple(part for override in overrides for part in _expanded(override, config_dir))


def _expanded(override: str, config_dir: str | None) -> Iterator[str]:
    parsed = parsed_override(override) if override.startswith(f"{_GROUP}=") else None
    value = None if parsed is None or parsed.is_sweep_override() else parsed.value()
    if not isinstance(value, str) or not _is_path_or_hub_name(value, config_dir):
        yield override
        return
    yield f"{_GROUP}={'gguf' if is_gguf_path(value) else 'local'}"
    yield f"{_GROUP}.path={quoted(value)}"


def _is_path_or_hub_name(value: str, config_dir: str | None) -> bool:
    try:
        is_path = "/" in value or is_gguf_path(value) or Path(value).is_dir()
        return is_path and not catalog.is_choice(_GROUP, value, config_dir)
    except (OSError, ValueError):  # too long, or with U+0000
        return False
