"""Prefix states: keys and values that attention modules attend to before the text, and the queries that see them.

In: tables of keys and values. Out: `PrefixStates`, which fill the slots of a backbone: one row that a whole batch
shares, as in training, or one row per request, of unequal lengths, as in serving. They also carry the additions of
prefixes that are outside the softmax.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ptl_prefix.backbones.attention_additions import AttentionAddition


@dataclass(frozen=True)
class LayerStates:
    """The prefix of one attention module.

    Args:
        key: Keys, after the rotary embedding if the model has one.
        value: Values.
        mask: True for positions that exist; rows of unequal length are padded.
        first_visible: For each row of the batch, the first column whose query sees the prefix; `None` if every query
            does. Queries of a forward pass that continues from a cache always see it.
    """

    key: Float[Tensor, "rows kv_heads prefix head_dim"]
    value: Float[Tensor, "rows kv_heads prefix head_dim"]
    mask: Bool[Tensor, "rows prefix"]
    first_visible: Int[Tensor, " seen_rows"] | None = None

    @property
    def length(self) -> int:
        """Number of prefix positions, padding included."""
        return self.key.shape[2]

    def for_rows(self, batch: int) -> LayerStates:
        """These states for `batch` rows: one row is shared by all, several are repeated for their beams.

        Raises:
            ValueError: When `batch` is not a multiple of the number of rows.
        """
        return dataclasses.replace(self, **{name: _repeated(getattr(self, name), batch) for name in _BY_ROW})

    def visible(self, batch: int, queries: int, *, keys: int) -> Bool[Tensor, "batch 1 queries prefix"]:
        """True for the positions of the prefix that a query sees.

        Args:
            batch: Number of rows, beams included.
            queries: Number of columns of this forward pass.
            keys: Number of columns of text that have keys; more than `queries` if a cache holds earlier ones.
        """
        visible = _repeated(self.mask, batch)[:, None, None, :].expand(-1, 1, queries, -1)
        if self.first_visible is None or keys > queries:
            return visible
        columns = torch.arange(queries, device=visible.device)
        reached = columns >= _repeated(self.first_visible, batch)[:, None]  # (batch, queries)
        return visible & reached[:, None, :, None]

    def padded(self, length: int) -> LayerStates:
        """These states, padded in front with invisible positions to `length`."""
        missing = length - self.length
        return dataclasses.replace(
            self,
            key=nn.functional.pad(self.key, (0, 0, missing, 0)),
            value=nn.functional.pad(self.value, (0, 0, missing, 0)),
            mask=nn.functional.pad(self.mask, (missing, 0)),
        )


_BY_ROW = ("key", "value", "mask")


def layers_of_table(table: Float[Tensor, "layers two kv_heads prefix head_dim"]) -> list[LayerStates]:
    """The states of each layer of a table of keys and values: one row, every position visible to every query."""
    mask = torch.ones(1, table.shape[3], dtype=torch.bool, device=table.device)
    return [LayerStates(key[None], value[None], mask) for key, value in table]


def _repeated(rows: Tensor, batch: int) -> Tensor:
    """One row expanded to the batch, or each row repeated for its beams."""
    if rows.shape[0] == batch:
        return rows
    if rows.shape[0] == 1:
        return rows.expand(batch, *rows.shape[1:])
    if batch % rows.shape[0]:
        raise ValueError(f"A batch must hold a multiple of the prefix's {rows.shape[0]} rows, but has {batch}.")
    return rows.repeat_interleave(batch // rows.shape[0], 0)


@dataclass(frozen=True)
class PrefixStates:
    """The prefix of every attention module of a backbone.

    Args:
        sites: For each site one entry per layer; `None` for a layer without a prefix.
        position_offset: Shift of the text positions, one entry per row: the prefix length, or 0 if the position law is
            `unshifted`. See also `seen_from`.
        additions: For sites with additions one entry per layer; `None` for a layer without. They serve all rows.
    """

    sites: Mapping[str, tuple[LayerStates | None, ...]]
    position_offset: Int[Tensor, " rows"]
    additions: Mapping[str, tuple[AttentionAddition | None, ...]] = dataclasses.field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Number of rows; 1 if every row of a batch shares the prefix."""
        return self.position_offset.shape[0]

    def invisible(self) -> PrefixStates:
        """The same states, invisible to every query: the backbone computes as without it, at shifted positions."""
        hidden = self._map(lambda layer: dataclasses.replace(layer, mask=torch.zeros_like(layer.mask)))
        return dataclasses.replace(hidden, additions={})

    def seen_from(self, columns: Int[Tensor, " batch"]) -> PrefixStates:
        """The same states, visible only to queries at a column or after it, one column per row of the batch.

        The text before this column keeps its positions, the text after it is shifted: infix-tuning (Li & Liang, 2021,
        section 7.3).
        """
        return self._map(lambda layer: dataclasses.replace(layer, first_visible=columns))

    def text_offset(self, width: int) -> Int[Tensor, "rows widths"]:
        """Shift of the text positions: one number per row, or one for each of `width` columns after `seen_from`."""
        offset = self.position_offset[:, None]
        first = next((layer.first_visible for layers in self.sites.values() for layer in layers if layer), None)
        if first is None:
            return offset
        return offset * (torch.arange(width, device=first.device) >= first[:, None])

    def to(self, *, device: torch.device, dtype: torch.dtype) -> PrefixStates:
        """The same states on another device and in another dtype; gradients flow back to the float32 parameters."""
        moved = self._map(
            lambda layer: dataclasses.replace(
                layer, key=layer.key.to(device, dtype), value=layer.value.to(device, dtype), mask=layer.mask.to(device)
            )
        )
        additions = {
            site: tuple(None if layer is None else layer.to(device=device, dtype=dtype) for layer in layers)
            for site, layers in self.additions.items()
        }
        return PrefixStates(moved.sites, self.position_offset.to(device), additions)

    def _map(self, change: Callable[[LayerStates], LayerStates]) -> PrefixStates:
        sites = {
            site: tuple(None if layer is None else change(layer) for layer in layers)
            for site, layers in self.sites.items()
        }
        return dataclasses.replace(self, sites=sites)

    @staticmethod
    def stack(rows: Sequence[PrefixStates]) -> PrefixStates:
        """Several prefixes as the rows of one batch, in order.

        Shorter prefixes, and layers without a prefix, are padded with invisible positions.

        Raises:
            ValueError: When one has additions, which would serve all rows.
        """
        if any(row.additions for row in rows):
            raise ValueError("Rows of several prefixes must have no additions to attention, but some have.")
        first = rows[0]
        sites = {
            site: tuple(_stack_layer([row.sites[site][index] for row in rows], rows) for index in range(len(layers)))
            for site, layers in first.sites.items()
        }
        return PrefixStates(sites, torch.cat([row.position_offset for row in rows]))


def _stack_layer(layers: Sequence[LayerStates | None], rows: Sequence[PrefixStates]) -> LayerStates | None:
    present = [layer for layer in layers if layer is not None]
    if not present:
        return None
    length = max(layer.length for layer in present)
    filled = [
        _empty_like(present[0], row.rows) if layer is None else layer for layer, row in zip(layers, rows, strict=True)
    ]
    padded = [layer.padded(length) for layer in filled]
    return LayerStates(
        torch.cat([layer.key for layer in padded]),
        torch.cat([layer.value for layer in padded]),
        torch.cat([layer.mask for layer in padded]),
        _stack_first_visible(padded),
    )


def _stack_first_visible(layers: Sequence[LayerStates]) -> Tensor | None:
    """The first visible column of each row; 0 for rows in which every query sees the prefix."""
    if all(layer.first_visible is None for layer in layers):
        return None
    return torch.cat(
        [
            torch.zeros(layer.mask.shape[0], dtype=torch.long, device=layer.mask.device)
            if layer.first_visible is None
            else layer.first_visible
            for layer in layers
        ]
    )


def _empty_like(layer: LayerStates, rows: int) -> LayerStates:
    """States without positions, in `rows` rows: those of a layer without a prefix."""
    return LayerStates(
        layer.key.new_zeros(rows, layer.key.shape[1], 0, layer.key.shape[3]),
        layer.value.new_zeros(rows, layer.value.shape[1], 0, layer.value.shape[3]),
        layer.mask.new_zeros(rows, 0),
    )
