"""The search for the most likely of a closed set of labels, on the tree of their ids.

In: log-probabilities of next ids, as far as the search asks for them. Out: which beginnings of labels to ask about
next, and at the end the most likely label. A label is never more likely than its beginning, so that beginnings which
fall behind the best whole label end there: most labels are never computed.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

Ids = tuple[int, ...]


class LikelyLabel(NamedTuple):
    """The most likely label after a prompt."""

    place: int
    """Its index among the labels."""
    log_likelihood: float
    """Its log-likelihood in nats."""


class LabelTree:
    """A closed set of labels, each a sequence of ids.

    Args:
        labels: Ids of each label, with those that end a target.
    """

    def __init__(self, labels: Sequence[Sequence[int]]) -> None:
        self.index: dict[Ids, int] = {}
        self.next_ids: dict[Ids, list[int]] = {}
        for index, label in enumerate(map(tuple, labels)):
            self.index.setdefault(label, index)
            for place, next_id in enumerate(label):
                found = self.next_ids.setdefault(label[:place], [])
                if next_id not in found:
                    found.append(next_id)

    def further(self, beginning: Ids) -> Ids:
        """A beginning with one more id, if something can follow that: a forward pass tells about both at once."""
        longer = (*beginning, self.next_ids[beginning][0])
        return longer if longer in self.next_ids else beginning


class LabelSearch:
    """The search after one prompt.

    Args:
        tree: The labels.
    """

    def __init__(self, tree: LabelTree) -> None:
        self._tree = tree
        self._reach: dict[Ids, float] = {(): 0.0}
        self._open: set[Ids] = {()}
        self._best = LikelyLabel(0, float("-inf"))

    def next_beginnings(self, most: int) -> list[Ids]:
        """The most likely beginnings whose next ids have to be known, at most so many; none when the search is over."""
        self._open = {ids for ids in self._open if self._reach[ids] > self._best.log_likelihood}
        return sorted(self._open, key=self._reach.__getitem__, reverse=True)[:most]

    def learn(self, beginning: Ids, log_probabilities: Mapping[int, float]) -> None:
        """Take in the log-probabilities of the ids that continue a beginning."""
        if beginning not in self._open:
            return
        self._open.remove(beginning)
        for next_id, log_probability in log_probabilities.items():
            longer, reach = (*beginning, next_id), self._reach[beginning] + log_probability
            self._reach[longer] = reach
            if longer in self._tree.index and reach > self._best.log_likelihood:
                self._best = LikelyLabel(self._tree.index[longer], reach)
            if longer in self._tree.next_ids:
                self._open.add(longer)

    @property
    def best(self) -> LikelyLabel:
        """The most likely label of those that are known whole."""
        return self._best
