"""What the HTTP side needs of a router, which chooses the task of a request with `model: "auto"`.

In: the text of a request. Out: a decision: a task, or none with the nearest ones. Who decides is not known here: a
server without a router refuses such a request by saying so.
"""

from collections.abc import Sequence
from typing import Protocol

AUTO = "auto"
"""The model whose task a router chooses; no bundle can be reached by this name."""


class TaskScoreLike(Protocol):
    """What one task says of a text."""

    @property
    def name(self) -> str:
        """Name of the task."""

    @property
    def coverage(self) -> float:
        """Share of the task's own inputs that are at least as unusual as the text."""


class RouteDecisionLike(Protocol):
    """The task of a text."""

    @property
    def name(self) -> str | None:
        """Name of the task; `None` if no task is near enough."""

    @property
    def scores(self) -> Sequence[TaskScoreLike]:
        """Every task's score, the nearest task first."""

    @property
    def refusal(self) -> str:
        """A sentence for the client of a text that no task is near to."""


class RouterLike(Protocol):
    """Chooses tasks; called on the thread that tokenises, one text at a time."""

    def choose(self, text: str) -> RouteDecisionLike:
        """The task of a text."""
