"""What chooses the task of a request with `model: "auto"`.

In: the text of a request. Out: `RouteDecision`. Who decides is not known here: a server without a router answers such a
request by saying so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

AUTO = "auto"
"""The model whose task a router chooses; no bundle can be reached by this name."""


@dataclass(frozen=True)
class RouteDecision:
    """The task of a text.

    Args:
        name: Name of the task; `None` if no task is near enough.
        scores: How near each task is, the larger the nearer.
    """

    name: str | None
    scores: Mapping[str, float]


class Router(Protocol):
    """Chooses tasks. It is called on the thread that tokenises, one text at a time."""

    def choose(self, text: str) -> RouteDecision:
        """The task of a text."""
