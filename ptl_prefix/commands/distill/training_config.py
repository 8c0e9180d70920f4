"""The config of the training of a document's prefix: what `ptl-prefix train task=distillation` would have."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ptl_prefix.artifacts.run_config import read_config
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.errors import RunError
from ptl_prefix.settings import defaults_of

_TASK = "ptl_prefix.data.tasks.distillation.Distillation"
_SAME = (
    "seed",
    "run_id",
    "routing",
    "outputs_url",
    "backbone",
    "method",
    "data",
    "optimizer",
    "trainer",
    "generation",
    "evaluation",
    "training",
    "tracking",
)
"""Keys that both configs have."""


def training_config(config: Mapping[str, Any], study: Path) -> dict[str, Any]:
    """The config of a training.

    Args:
        config: Config of `ptl-prefix distill`.
        study: Folder of the self-study.
    """
    task = {
        "_target_": _TASK,
        **defaults_of("task/distillation"),
        "name": config["name"],
        "self_study": str(study),
        "loss": config["loss"],
        "replay": replayed_study(config["update"]),
        "replay_share": config["replay_share"],
        "document_file": os.path.abspath(config["document"]),
    }
    new: dict[str, Any] = {"dry_run": False, "resume": None, "resume_anyway": [], "study": None, "trial": None}
    return {**{key: config[key] for key in _SAME}, **new, "method": method_node(config), "task": task}


def method_node(config: Mapping[str, Any]) -> dict[str, Any]:
    """The method, which continues from an older prefix with `update`."""
    if config["update"] is None:
        return dict(config["method"])
    starts_from = {"init": "bundle", "init_bundle": os.path.abspath(config["update"]), "init_text": None}
    return {**config["method"], **starts_from, "init_num_chunks": None, "init_num_tokens": None}


def replayed_study(update: str | None) -> str | None:
    """The self-study that an older run was trained on.

    Raises:
        RunError: The run was not trained on a self-study.
    """
    if update is None:
        return None
    task = read_config(RunFolder.open(update), ("task",))["task"]
    if task.get("_target_") != _TASK:
        raise RunError(
            f"`update` must be a run of `ptl-prefix distill`, but the task of {update} is {task.get('name')!r}; choose "
            "the run of the older version."
        )
    return str(task["self_study"])
