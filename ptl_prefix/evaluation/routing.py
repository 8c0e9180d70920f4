"""How well texts are routed: shares of right, wrong and refused texts, and who was taken for whom.

In: for each text its own task and the router's decision. Out: `RoutingReport`. Foreign texts have no task: a router is
right to refuse them.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

REFUSED = "(refused)"
FOREIGN = "(foreign)"
_QUANTILE = 1.959964
"""Of the normal distribution, for 95% intervals."""


@dataclass(frozen=True)
class RoutedText:
    """The decision on one text.

    Args:
        own: Name of the text's own task; `None` for a foreign text.
        chosen: Name of the chosen task; `None` if the text was refused.
        nearest: Name of the nearest task; `None` if there is no task.
        group: Part of the task's split, such as `unseen`; empty where there are no parts.
    """

    own: str | None
    chosen: str | None
    nearest: str | None
    group: str = ""


@dataclass(frozen=True)
class Share:
    """A share of some texts, with its 95% interval (Wilson, 1927), which is honest near 0 and 1.

    Args:
        count: Number of texts that count.
        of: Number of all texts; at least 1.
    """

    count: int
    of: int

    @property
    def value(self) -> float:
        """The share."""
        return self.count / self.of

    @property
    def interval(self) -> tuple[float, float]:
        """The ends of the 95% interval."""
        squared = _QUANTILE**2
        centre = (self.count + squared / 2) / (self.of + squared)
        spread = self.count * (self.of - self.count) / self.of + squared / 4
        half = _QUANTILE * float(np.sqrt(spread)) / (self.of + squared)
        return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class TaskRouting:
    """The routing of the texts of one task, or of one group of them.

    Args:
        name: Name of the task.
        group: Group of the texts; empty for all.
        right: Share that was routed to the task.
        wrong: Share that was routed to another task.
        refused: Share that was refused.
        nearest: Share whose nearest task is the right one, refused or not.
    """

    name: str
    group: str
    right: Share
    wrong: Share
    refused: Share
    nearest: Share


@dataclass(frozen=True)
class RoutingReport:
    """The routing of all texts.

    Args:
        tasks: The routing of each task's texts, then of its groups if it has some.
        overall: The routing of all texts that have a task; its name is empty.
        answered: Share of the texts that were routed right, of those that were not refused; `None` if all were.
        foreign: Share of foreign texts that were accepted; `None` without any.
        confusion: Number of texts by own task and chosen task, with `FOREIGN` and `REFUSED` for none.
    """

    tasks: tuple[TaskRouting, ...]
    overall: TaskRouting
    answered: Share | None
    foreign: Share | None
    confusion: dict[str, dict[str, int]]


def routing_report(texts: Sequence[RoutedText]) -> RoutingReport:
    """Summarise decisions; at least one text must have a task."""
    known = [one for one in texts if one.own is not None]
    names = list(dict.fromkeys(str(one.own) for one in known))
    tasks = [part for name in names for part in _parts(name, [one for one in known if one.own == name])]
    answered = [one for one in known if one.chosen is not None]
    foreign = [one for one in texts if one.own is None]
    counts = Counter((one.own or FOREIGN, one.chosen or REFUSED) for one in texts)
    rows, columns = [*names, *([FOREIGN] if foreign else [])], [*names, REFUSED]
    columns += sorted({chosen for _, chosen in counts} - {*columns})
    return RoutingReport(
        tasks=tuple(tasks),
        overall=_routing("", "", known),
        answered=Share(sum(one.chosen == one.own for one in answered), len(answered)) if answered else None,
        foreign=Share(sum(one.chosen is not None for one in foreign), len(foreign)) if foreign else None,
        confusion={row: {column: counts[row, column] for column in columns} for row in rows},
    )


def _parts(name: str, texts: Sequence[RoutedText]) -> Iterable[TaskRouting]:
    yield _routing(name, "", texts)
    for group in sorted({one.group for one in texts} - {""}):
        yield _routing(name, group, [one for one in texts if one.group == group])


def _routing(name: str, group: str, texts: Sequence[RoutedText]) -> TaskRouting:
    def share(counts: Iterable[bool]) -> Share:
        return Share(sum(counts), len(texts))

    return TaskRouting(
        name=name,
        group=group,
        right=share(one.chosen == one.own for one in texts),
        wrong=share(one.chosen not in (one.own, None) for one in texts),
        refused=share(one.chosen is None for one in texts),
        nearest=share(one.nearest == one.own for one in texts),
    )
