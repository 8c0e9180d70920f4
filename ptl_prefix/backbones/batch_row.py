"""One row of a `RowBatch`, and which prefix positions the rows of a forward pass see.

In: rows with their prefixes. Out: states for the backbone's slots, which say who sees what; the keys and values are in
the batch's caches.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ptl_prefix.backbones.attention_additions import AttentionAddition
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.prefix_states import LayerStates, PrefixStates


@dataclass(eq=False)
class Row:
    """One row of a `RowBatch`.

    Args:
        index: Place in the batch; it changes when other rows leave.
        states: The row's prefix, one row of states in the backbone's dtype; `None` for the bare backbone.
        prefix_from: Text column from which the prefix is visible and shifts positions: 0, or of an infix the last
            column of the prompt.
        length: Number of text columns that hold keys and values.
        num_source: Number of columns of the source that an encoder has read.
    """

    index: int
    states: PrefixStates | None
    prefix_from: int = 0
    length: int = 0
    num_source: int = 0

    def prefix_length(self, site: str) -> int:
        """Number of prefix positions at a site: that of its longest layer."""
        layers = () if self.states is None else self.states.sites[site]
        return max((layer.length for layer in layers if layer is not None), default=0)

    @property
    def additions(self) -> Mapping[str, tuple[AttentionAddition | None, ...]]:
        """The additions to the output of attention, by site; empty if there is none."""
        return {} if self.states is None else self.states.additions

    @property
    def offset(self) -> int:
        """Shift of the positions of the next text column."""
        if self.states is None or self.length < self.prefix_from:
            return 0
        return int(self.states.position_offset)


def visible_prefixes(rows: Sequence[Row], lengths: Mapping[str, int], backbone: Backbone) -> PrefixStates:
    """States that say which prefix positions exist for each row; the keys and values are in the caches.

    Additions are those of the first row: the batch has one bundle's rows only if there are any.
    """
    sites: dict[str, tuple[LayerStates | None, ...]] = {}
    for site, geometry in backbone.geometry.items():
        length = lengths.get(site, 0)
        if not length:
            sites[site] = (None,) * geometry.num_layers
            continue
        # Only the shape is read: a cache that starts with the prefix holds the numbers.
        shape = (len(rows), geometry.num_kv_heads, length, geometry.head_dim)
        numbers = torch.zeros((), device=backbone.device, dtype=backbone.dtype).expand(shape)
        masks: dict[tuple[int, ...], LayerStates] = {}
        layers = []
        for index in range(geometry.num_layers):
            visible = tuple(_visible_length(row, site, index) for row in rows)
            if visible not in masks:
                counts = torch.tensor(visible, device=backbone.device)
                mask = torch.arange(length, device=backbone.device) >= length - counts[:, None]
                masks[visible] = LayerStates(numbers, numbers, mask)
            layers.append(masks[visible])
        sites[site] = tuple(layers)
    return PrefixStates(sites, torch.zeros(len(rows), dtype=torch.long), rows[0].additions)


def _visible_length(row: Row, site: str, layer: int) -> int:
    """Number of prefix positions that the next tokens of a row see in one layer."""
    states = None if row.states is None else row.states.sites[site][layer]
    return 0 if states is None or row.length < row.prefix_from else states.length
