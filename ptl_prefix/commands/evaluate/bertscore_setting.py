"""`bertscore_model`, which every verb that measures text has: the one metric that needs a model of its own."""

from collections.abc import Collection
from pathlib import Path
from typing import Any


def encoder_mistakes(model: Any, metrics: Collection[str]) -> list[str]:
    """An encoder that is missing, or that nobody asked for.

    Args:
        model: As a config has it; a value of another type is somebody else's mistake.
        metrics: What is measured.
    """
    if not isinstance(model, str):
        return []
    mistakes = []
    if not Path(model).is_dir():
        mistakes.append(f"`bertscore_model` must be a folder, but there is none at '{model}'.")
    if "bertscore" not in metrics:
        mistakes.append("`bertscore_model` is read by bertscore alone; add that to `metrics`, or leave it out.")
    return mistakes
