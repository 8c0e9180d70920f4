"""What a training must be like to share a backbone, and its passes, with others of a pack.

In: the settings of a training. Out: one sentence for each that keeps it from sharing, before any weights load.
"""

from collections.abc import Mapping
from typing import Any

from ptl_prefix.methods.method import Method

_SETTING = "set `hydra.sweeper.pack` to 1"


def pack_problems(
    method: Method, trainer: Mapping[str, Any], base_mode: str | None, *, caches_hidden_states: bool
) -> list[str]:
    """What keeps a training from sharing a backbone with others, one sentence each.

    Args:
        method: Its method.
        trainer: Arguments of Lightning's `Trainer`, by its own names.
        base_mode: The setting `backbone.base_mode`.
        caches_hidden_states: The setting `data.cache_hidden_states`.
    """
    problems = []
    if not method.mixes_rows:
        problems.append(
            "`method` must be a prefix or a prompt in a pack (prefix_tuning, document_prefix, prompt_tuning), as each "
            f"row of a pass has its own, but is {method.name}; {_SETTING}."
        )
    if (base_mode or method.base_mode) == "train":
        problems.append(
            "`backbone.base_mode` must be eval in a pack, as the backbone's own dropout would draw other numbers than "
            f"in a run alone, but is train; {_SETTING}."
        )
    if caches_hidden_states:
        problems.append(
            "`data.cache_hidden_states` must be false in a pack, whose passes start at the ids of all trials, but is "
            f"true; {_SETTING}."
        )
    problems += [
        f"`trainer.{key}` {law}, but is {trainer[key]!r}; {_SETTING}."
        for key, (law, allowed) in _TRAINER_LAWS.items()
        if trainer.get(key) not in allowed
    ]
    return problems


_TRAINER_LAWS: Mapping[str, tuple[str, tuple[Any, ...]]] = {
    "precision": ("must be 32-true or null in a pack", (None, "32-true")),
    "devices": ("must be 1 in a pack", (None, 1, "1")),
    "num_nodes": ("must be 1 in a pack", (None, 1)),
    "max_time": ("must be null in a pack, whose trials share the time", (None,)),
}
"""The law of each setting of the trainer that acts on a whole process, and its allowed values."""
