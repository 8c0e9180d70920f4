"""The labels of a classification task as a tree of token ids: what may come next, so that the answer is one of them.

In: the ids of each label, with the id that ends it. Out: `LabelTrie`, which says for the ids so far which may follow. A
label that begins another one ("card" and "card_arrival") may end or go on.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import TypeAlias

_Node: TypeAlias = "dict[int, _Node]"


class LabelTrie:
    """A closed set of texts that a request may be answered with. It never changes.

    Args:
        labels: Ids of each label. Each ends with an id that ends a text, which is in none of them before.
    """

    def __init__(self, labels: Iterable[Sequence[int]]) -> None:
        self._root: _Node = {}
        self.longest = 0
        """Number of ids of the longest label, its end included."""
        for ids in labels:
            node = self._root
            for one in ids:
                node = node.setdefault(one, {})
            self.longest = max(self.longest, len(ids))

    def next_ids(self, written: Sequence[int]) -> Collection[int]:
        """The ids that may follow those that a request has; none after the end of a label."""
        node = self._root
        for one in written:
            node = node[one]
        return node.keys()


def label_ids(target_ids: Sequence[int], stop_ids: Collection[int]) -> Sequence[int]:
    """The ids of a label as far as a text of it is generated: up to the first id that ends a text."""
    end = next(place for place, one in enumerate(target_ids) if one in stop_ids)
    return target_ids[: end + 1]
