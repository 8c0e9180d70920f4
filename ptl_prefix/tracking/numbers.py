"""Which events are points of curves, and which of their values are numeric."""

from collections.abc import Mapping
from typing import Any

CURVES = ("train", "validation", "selection")
"""Kinds of events that recur, and whose numeric values are plotted over steps."""


def numeric_values(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the integers and floats among some values, without booleans."""
    return {name: value for name, value in values.items() if type(value) in (int, float)}
