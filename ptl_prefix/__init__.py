"""Prefix-tuning of frozen language models: train, export and serve megabytes per task.

`load_backbone`, `PrefixTuning` and `load_bundle` are all that a script needs. Nothing heavy is imported before one of
them is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ptl_prefix.backbones.spec import load_backbone
    from ptl_prefix.methods.prefix_tuning import PrefixTuning
    from ptl_prefix.methods.restore import load_bundle

__all__ = ["PrefixTuning", "load_backbone", "load_bundle"]

_HOMES = {
    "load_backbone": "ptl_prefix.backbones.spec",
    "PrefixTuning": "ptl_prefix.methods.prefix_tuning",
    "load_bundle": "ptl_prefix.methods.restore",
}


def __getattr__(name: str) -> Any:
    # Lazily, because the command line's help must not wait for torch.
    if name not in _HOMES:
        raise AttributeError(f"module 'ptl_prefix' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
