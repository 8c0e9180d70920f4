"""Batches without padding: several examples in one row, and one prompt for all of its targets.

In: the pairs of a batch. Out: `ModelInputs` with a `TextLayout`, whose loss is that of the pairs alone. The pairs of an
example, which share its prompt, become a tree: the prompt once, and behind it a branch for each target. A branch begins
with the last id of the prompt again, because the logits there predict the first id of its own target. Trees are then
divided among few rows of equal width.

A long row makes attention dearer, since a token's scores are computed for all of its row and masked: the number of rows
is the one with the least work.
"""

import heapq
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ptl_prefix.backbones.layer_input import LayerInput, joined_inputs
from ptl_prefix.backbones.model_inputs import IGNORED_LABEL, ModelInputs
from ptl_prefix.backbones.text_layout import NO_PART, TextLayout
from ptl_prefix.data.collation import EncodedRow, batch_width

_LINEAR_COLUMNS = 4096
"""Columns of a row at which attention scores cost as much as all matrix products of a layer: six times the width of the
residual stream, of a small backbone (Kaplan et al., 2020, table 1)."""


@dataclass(frozen=True)
class Tree:
    """The pairs of one example as one text.

    Args:
        ids: Token ids.
        labels: Target ids at their own places, `IGNORED_LABEL` elsewhere.
        part: Number of each token's part: the prompt is 0, or the only one if there is one target.
        continues: Number of the part that it continues; `NO_PART` for none.
        positions: Position of each token in its example.
        layer_inputs: What a layer reads of the tokens, if that was computed before; those of the first part come first.
    """

    ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    part: list[int] = field(default_factory=list)
    continues: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    layer_inputs: list[LayerInput] = field(default_factory=list)

    def add(self, pair: EncodedRow, places: slice, *, num_given: int, part: int, continues: int) -> None:
        """Add a part: some neighbouring ids of a pair, the first `num_given` of which are not trained on."""
        ids, start = pair["input_ids"][places], places.start
        self.ids.extend(ids)
        self.labels.extend([IGNORED_LABEL] * num_given + list(ids[num_given:]))
        self.part.extend([part] * len(ids))
        self.continues.extend([continues] * len(ids))
        self.positions.extend(range(start, start + len(ids)))
        if "layer_input" in pair:
            self.layer_inputs.append(pair["layer_input"].at(places))

    def __len__(self) -> int:
        return len(self.ids)


def tree_of(pairs: Sequence[EncodedRow]) -> Tree:
    """The tree of pairs with the same prompt."""
    tree = Tree()
    num_shared = pairs[0]["num_source_ids"] - 1
    if len(pairs) == 1 or num_shared < 1:
        for number, pair in enumerate(pairs):
            tree.add(pair, slice(0, None), num_given=pair["num_source_ids"], part=number, continues=NO_PART)
        return tree
    tree.add(pairs[0], slice(0, num_shared), num_given=num_shared, part=0, continues=NO_PART)
    for number, pair in enumerate(pairs, start=1):
        tree.add(pair, slice(num_shared, None), num_given=1, part=number, continues=0)
    return tree


def shared_length(lengths: Sequence[int], num_source_ids: int) -> int:
    """The number of tokens of `tree_of` pairs with these lengths and one prompt."""
    if len(lengths) == 1 or num_source_ids < 2:
        return sum(lengths)
    return sum(lengths) - (len(lengths) - 1) * (num_source_ids - 1)


def collate_packed(pairs: Sequence[EncodedRow], *, pad_id: int, shares_sources: bool) -> ModelInputs:
    """Collate pairs of a decoder-only backbone into few rows with little padding.

    Args:
        pairs: Prompts with their targets.
        pad_id: Id that fills what is left; it is masked.
        shares_sources: Whether the prompt of neighbouring pairs of one example is computed once.
    """
    groups = _neighbours(pairs) if shares_sources else ([pair] for pair in pairs)
    trees = [tree_of(group) for group in groups]
    rows = _divided(trees)
    width = batch_width(max(map(_length, rows)))
    return ModelInputs(
        input_ids=_filled([[id for tree in row for id in tree.ids] for row in rows], width, pad_id),
        attention_mask=_filled([[1] * _length(row) for row in rows], width, 0),
        labels=_filled([[label for tree in row for label in tree.labels] for row in rows], width, IGNORED_LABEL),
        layout=TextLayout(
            part=_filled([list(_numbered(row, "part")) for row in rows], width, NO_PART),
            continues=_filled([list(_numbered(row, "continues")) for row in rows], width, NO_PART),
            positions=_filled([[place for tree in row for place in tree.positions] for row in rows], width, 0),
        ),
        layer_input=joined_inputs([[one for tree in row for one in tree.layer_inputs] for row in rows], width),
    )


def _neighbours(pairs: Sequence[EncodedRow]) -> Iterator[list[EncodedRow]]:
    """Neighbouring pairs of the same example and prompt; a pair whose prompt was cut to another length is alone."""
    for _, group in itertools.groupby(pairs, key=lambda pair: (pair["example"], _prompt(pair))):
        yield list(group)


def _prompt(pair: EncodedRow) -> tuple[int, ...]:
    return tuple(pair["input_ids"][: pair["num_source_ids"]])


def _divided(trees: Sequence[Tree]) -> list[list[Tree]]:
    """The trees in rows of about equal length, of the tried numbers of rows the one that costs the least."""
    ordered = sorted(trees, key=len, reverse=True)
    # More rows than these would not be narrower: none is narrower than the longest tree.
    most = -(-sum(map(len, ordered)) // len(ordered[0]))
    numbers = {-(-most // share) for share in (1, 2, 3, 4, 6, 8, 16, 32)} | {max(1, most * 3 // 4)}
    return min((_balanced(ordered, number) for number in sorted(numbers)), key=_cost)


def _balanced(ordered: Sequence[Tree], number: int) -> list[list[Tree]]:
    """Divide trees among rows: the longest first, each into the shortest row (Graham, 1969)."""
    rows: list[list[Tree]] = [[] for _ in range(number)]
    shortest = [(0, index) for index in range(number)]
    for tree in ordered:
        length, index = shortest[0]
        rows[index].append(tree)
        heapq.heapreplace(shortest, (length + len(tree), index))
    return [row for row in rows if row]


def _cost(rows: Sequence[Sequence[Tree]]) -> float:
    width = batch_width(max(map(_length, rows)))
    return len(rows) * width * (1 + width / _LINEAR_COLUMNS)


def _length(row: Sequence[Tree]) -> int:
    return sum(map(len, row))


def _numbered(row: Sequence[Tree], name: str) -> Iterator[int]:
    """The numbers of parts, counted over all trees of a row."""
    first = 0
    for tree in row:
        yield from (number if number == NO_PART else number + first for number in getattr(tree, name))
        first += max(tree.part) + 1


def _filled(rows: Sequence[list[int]], width: int, value: int) -> Tensor:
    return torch.tensor([row + [value] * (width - len(row)) for row in rows], dtype=torch.long)
