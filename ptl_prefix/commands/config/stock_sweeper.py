"""What users of the plugin hydra-optuna-sweeper may write and our sweeper does not have, with what to write instead.

In: a key or a value of `hydra.sweeper`. Out: a sentence; `None` for everything else.
"""

from collections.abc import Mapping
from typing import Any

_SPACE = "the search space is `hydra.sweeper.params` (key: choice(...), interval(...) or range(...))"
_KEYS = {
    "custom_search_space": f"a study must be reproducible from its file, and a Python function is not; {_SPACE}, and "
    "values that depend on each other are `hydra.sweeper.arms`, each with `overrides` and `params` of its own.",
    "search_space": f"{_SPACE}.",
    "optuna_config": "its keys are directly in `hydra.sweeper`, such as hydra.sweeper.n_trials=20.",
}
_SEVERAL = (
    "a study searches one objective, as trials that are judged by several cannot be pruned; compare other metrics "
    "afterwards with `ptl-prefix compare`"
)
_SAMPLERS = {
    "nsgaii": f"{_SEVERAL}. Choose hydra/sweeper/sampler=tpe.",
    "nsgaiii": f"{_SEVERAL}. Choose hydra/sweeper/sampler=tpe.",
    "motpe": f"{_SEVERAL}. Choose hydra/sweeper/sampler=tpe.",
    "qmc": "choose hydra/sweeper/sampler=random, or exhaustive for a space that can be listed.",
    "bruteforce": "it is called hydra/sweeper/sampler=exhaustive here.",
}


def explain_key(key: str) -> str | None:
    """Why a key is not a setting of our sweeper."""
    group, _, name = key.rpartition(".")
    return f"`{key}` is not supported: {_KEYS[name]}" if group == "hydra.sweeper" and name in _KEYS else None


def explain_sampler(group: str, name: Any) -> str | None:
    """Why a sampler of Optuna's is not offered."""
    if group != "hydra/sweeper/sampler" or name not in _SAMPLERS:
        return None
    return f"`{group}={name}` is not supported: {_SAMPLERS[name]}"


def setting_problems(values: Mapping[str, Any]) -> dict[str, str]:
    """A sentence for each setting of the plugin's among those of `hydra.sweeper`, by its key."""
    found = {key: sentence for key in values if (sentence := explain_key(f"hydra.sweeper.{key}")) is not None}
    if isinstance(values.get("direction"), (list, tuple)):
        found["direction"] = f"`hydra.sweeper.direction` must be one direction: {_SEVERAL}."
    return found
