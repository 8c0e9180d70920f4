"""Every annotated call of the rooms that compute is checked while tests run: its types, and that its axes agree."""

import random
from collections.abc import Callable
from typing import Any, Self

# beartype looks at one item of a list, drawn at random, and keeps the function that draws from its import on. It gets
# a generator of its own: tests watch over the global one.
_draw = random.getrandbits
random.getrandbits = random.Random(0).getrandbits
from beartype import beartype  # noqa: E402

random.getrandbits = _draw

CHECKED_ROOMS = (
    "ptl_prefix.backbones",
    "ptl_prefix.methods",
    "ptl_prefix.evaluation.loss",
    "ptl_prefix.data.collation",
    "ptl_prefix.evaluation.inspection",
    "ptl_prefix.evaluation.nearest_words",
)


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose arguments and result are checked at every call."""
    # `Self` means something to beartype only where a whole class is decorated.
    notes = getattr(function, "__annotations__", {})
    function.__annotations__ = {name: Any if note is Self else note for name, note in notes.items()}
    return beartype(function)
