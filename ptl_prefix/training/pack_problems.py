"""What a training must be like to share a backbone, and its passes, with others of a pack.

In: the plan of a training. Out: one sentence for each thing that keeps it from sharing, before any weights load; and the
key that trainings on the same backbone have in common.
"""

import json
from collections.abc import Mapping
from typing import Any

from ptl_prefix.methods.method import Method
from ptl_prefix.training.plan import Plan

_PRECISIONS = (None, "32-true")


def pack_problems(plan: Plan) -> list[str]:
    """What keeps a training from sharing a backbone with others, one sentence each."""
    return [
        *method_problems(plan.method),
        *trainer_problems_in_pack(plan.trainer),
        *base_mode_problems(plan.backbone.base_mode),
    ]


def method_problems(method: Method) -> list[str]:
    """A method that does more than put keys and values before the text."""
    if method.mixes_rows:
        return []
    return [
        "`method` must be a prefix or a prompt (prefix_tuning, document_prefix, prompt_tuning) in a pack, where each row "
        f"of a pass has its own, but is {method.name}; set `hydra.sweeper.pack` to 1 for it."
    ]


def trainer_problems_in_pack(trainer: Mapping[str, Any]) -> list[str]:
    """Settings of the trainer that act on a whole pass, or on the time of a whole process."""
    laws = (
        ("precision", "must be 32-true or null in a pack", lambda value: value in _PRECISIONS),
        ("devices", "must be 1 in a pack", lambda value: str(value) in ("None", "1", "auto")),
        ("num_nodes", "must be 1 in a pack", lambda value: value in (None, 1)),
        ("max_time", "must be null in a pack, whose trials share the time", lambda value: value is None),
        ("strategy", "must not shard the backbone in a pack", lambda value: value != "fsdp"),
    )
    return [
        f"`trainer.{key}` {law}, but is {trainer[key]!r}; set `hydra.sweeper.pack` to 1."
        for key, law, holds in laws
        if key in trainer and not holds(trainer[key])
    ]


def base_mode_problems(base_mode: str | None) -> list[str]:
    """A backbone whose own dropout would draw other numbers than alone."""
    if base_mode != "train":
        return []
    return [
        "`backbone.base_mode` must be eval in a pack, as the backbone's own dropout would draw other numbers than in a "
        "run alone, but is train; set `hydra.sweeper.pack` to 1."
    ]


def shared_backbone_key(plan: Plan) -> str:
    """What trainings on the same backbone have in common: all of its settings."""
    return json.dumps(plan.config["backbone"], sort_keys=True, default=str)
