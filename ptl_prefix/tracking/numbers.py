"""Which events are points of curves, and which of their values are numbers."""

from collections.abc import Mapping
from typing import Any

CURVES = ("train", "validation")
"""The kinds of events that come again and again, and whose numbers are drawn over steps."""


def numeric_values(values: Mapping[str, Any]) -> dict[str, float]:
    """The values that can be drawn; a boolean is no number."""
    return {name: value for name, value in values.items() if type(value) in (int, float)}
