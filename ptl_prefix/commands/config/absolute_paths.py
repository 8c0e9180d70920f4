"""Makes the paths of a config absolute, so that a run and its bundle work from every folder.

In: a config as plain values. Out: the same config; each relative path to something that exists is absolute. A path that
stayed relative would mean other files in another folder, or be looked up on the hub as a name.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ptl_prefix.backbones.source import EMBEDDED

_PATH_KEY = re.compile(r"(?:.*_)?(?:path|dir|file|files|folder|bundle)|self_study|replay|distractors|questions")
"""The settings that hold paths, by their names; `path` may also be an embedded backbone or a name on the hub."""


def with_absolute_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with the paths in its nodes made absolute; the keys at its root are those of the verb."""
    return {key: _in_node(value) if isinstance(value, Mapping) else value for key, value in config.items()}


def _in_node(node: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _absolute(key, value) for key, value in node.items()}


def _absolute(key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return _in_node(value)
    if not _PATH_KEY.fullmatch(key):
        return value
    if isinstance(value, list | tuple):
        return [_absolute(key, part) for part in value]
    return _absolute_path(value) if isinstance(value, str) else value


def _absolute_path(text: str) -> str:
    try:
        is_embedded = "/" not in text and (EMBEDDED / text).is_dir()
        path = Path(text).expanduser()
        is_relative = bool(text) and not is_embedded and not os.path.isabs(text) and path.exists()
    except (OSError, RuntimeError, ValueError):  # too long, or of an unknown user
        return text
    return os.path.abspath(path) if is_relative else text
