"""Checks `bertscore_model`, the setting of the only metric that needs a model of its own."""

from collections.abc import Collection
from pathlib import Path
from typing import Any


def bertscore_problems(model: Any, metrics: Collection[str]) -> list[str]:
    """Return the problems of a `bertscore_model`: a missing folder, or a model that no metric uses.

    Args:
        model: Value in the config; values of a wrong type are reported elsewhere.
        metrics: Names of the chosen metrics.
    """
    if not isinstance(model, str):
        return []
    problems = []
    if not Path(model).is_dir():
        problems.append(f"`bertscore_model` must be a folder, but '{model}' is not one.")
    if "bertscore" not in metrics:
        problems.append(
            "`bertscore_model` must be null unless `metrics` contains bertscore; add bertscore, or remove the setting."
        )
    return problems
