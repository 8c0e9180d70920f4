"""Prefix-tuning of frozen language models: train, compare and export prefixes, a few megabytes per task.

`train`, `distill`, `evaluate`, `compare`, `advise` and `load_run` do what the command line does; `load_backbone`,
`load_bundle` and `PrefixTuning` suffice for a program of your own. Nothing heavy is imported before one of them is
used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ptl_prefix.backbones.spec import load_backbone
    from ptl_prefix.commands.python_api import Run, advise, compare, distill, evaluate, load_run, train
    from ptl_prefix.methods.prefix_tuning import PrefixTuning
    from ptl_prefix.methods.restore import load_bundle

__all__ = [
    "PrefixTuning",
    "Run",
    "advise",
    "compare",
    "distill",
    "evaluate",
    "load_backbone",
    "load_bundle",
    "load_run",
    "train",
]

_HOMES = {
    **dict.fromkeys(
        ("Run", "advise", "compare", "distill", "evaluate", "load_run", "train"), "ptl_prefix.commands.python_api"
    ),
    "load_backbone": "ptl_prefix.backbones.spec",
    "PrefixTuning": "ptl_prefix.methods.prefix_tuning",
    "load_bundle": "ptl_prefix.methods.restore",
}


def __getattr__(name: str) -> Any:
    # Imported on first use, so that the help of the command line does not import torch.
    if name not in _HOMES:
        raise AttributeError(f"module 'ptl_prefix' has no attribute '{name}'")
    importlib.import_module("ptl_prefix.backbones.library_logging").silence_library_messages_in_notebook()
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
