"""The folder of this package in the user's cache, for files that can be made again."""

import os
from pathlib import Path


def user_cache_folder() -> Path:
    """`ptl_prefix` in the folder that `XDG_CACHE_HOME` names, or in `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ptl_prefix"
