"""Keys and values of rows that join and leave a batch between forward passes.

In: the prefix of each row, and the keys and values that a forward pass computes. Out: a cache for that pass, whose
rows may have prefixes and texts of unequal length.

Each attention layer has one tensor of keys and one of values, (rows, kv_heads, columns, head_dim). A row holds its
prefix at the right end of the first `region` columns, and its text from there on:

    row 0   . . P P | t t t t .        a short prefix, four tokens of text
    row 1   P P P P | t t . . .
    row 2   . . . . | t t t t t        no prefix

A forward pass runs over neighbouring rows only, so attention reads views and copies nothing. A row that leaves is
replaced by the last one. Columns that no row uses hold zeros or what an earlier row left there: finite numbers, which a
mask hides.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from ptl_prefix.backbones.attention_sites import SiteGeometry
from ptl_prefix.backbones.prefix_states import LayerStates

_BLOCK_ROWS, _BLOCK_COLUMNS = 8, 64
"""Rows and text columns are allocated in blocks of this many."""


@dataclass(frozen=True)
class Window:
    """The part of the cache that one forward pass uses.

    Args:
        start: First row.
        stop: Row after the last one.
        prefix: Number of prefix columns that attention reads: the longest prefix of these rows.
        columns: For each row and new column, the text column that it is written to, (rows, new columns).
        width: Number of text columns that attention reads, the new ones included.
        first: The first of `columns`, if all rows write to the same ones; else `None`.
    """

    start: int
    stop: int
    prefix: int
    columns: Tensor
    width: int
    first: int | None


class RowLayer(DynamicLayer):
    """The keys and values of one attention layer, for all rows."""

    def __init__(self, geometry: SiteGeometry, *, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.is_initialized = True
        self.dtype, self.device = dtype, device
        self.region = 0
        self.window: Window | None = None
        self._tensors = [
            torch.zeros(0, geometry.num_kv_heads, 0, geometry.head_dim, device=device, dtype=dtype) for _ in range(2)
        ]

    @property
    def num_bytes(self) -> int:
        """Memory of the keys and values, unused columns included."""
        return sum(tensor.nbytes for tensor in self._tensors)

    def resize(self, *, rows: int, region: int, columns: int) -> None:
        """Change the number of rows, prefix columns and text columns; what a row holds stays."""
        old_region, self.region = self.region, region
        for index, old in enumerate(self._tensors):
            new = old.new_zeros(rows, old.shape[1], region + columns, old.shape[3])
            kept = min(rows, old.shape[0])
            num_prefix, num_text = min(region, old_region), min(columns, old.shape[2] - old_region)
            new[:kept, :, region - num_prefix : region + num_text] = old[
                :kept, :, old_region - num_prefix : old_region + num_text
            ]
            self._tensors[index] = new

    def write_prefix(self, row: int, states: LayerStates) -> None:
        """Write a prefix of one row to the right end of the region."""
        for tensor, new in zip(self._tensors, (states.key, states.value), strict=True):
            tensor[row, :, self.region - states.length : self.region] = new[0]

    def copy_row(self, source: int, target: int, *, num_text: int) -> None:
        """Copy the prefix and the first `num_text` columns of text of a row to another one."""
        for tensor in self._tensors:
            tensor[target, :, : self.region + num_text] = tensor[source, :, : self.region + num_text]

    def swap_rows(self, one: int, other: int, *, num_text: int) -> None:
        """Exchange two rows, up to `num_text` columns of text."""
        for tensor in self._tensors:
            both = tensor[[other, one], :, : self.region + num_text]
            tensor[one, :, : self.region + num_text] = both[0]
            tensor[other, :, : self.region + num_text] = both[1]

    def select(self, window: Window) -> None:
        """Choose the rows and columns of the next forward pass: `keys` and `values` are views of them."""
        self.window = window
        first, last = self.region - window.prefix, self.region + window.width
        self.keys, self.values = (tensor[window.start : window.stop, :, first:last] for tensor in self._tensors)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the new columns of the selected rows; return all their keys and values, the prefix first."""
        window = self.window
        assert window is not None
        assert self.keys is not None
        assert self.values is not None
        for view, new in ((self.keys, key_states), (self.values, value_states)):
            if window.first is not None:
                first = window.prefix + window.first
                view[:, :, first : first + new.shape[2]] = new
            else:
                # As an index of (rows, kv_heads, columns, head_dim).
                index = (window.columns + window.prefix)[:, None, :, None]
                view.scatter_(2, index.expand(-1, new.shape[1], -1, new.shape[3]), new)
        return self.keys, self.values

    def get_seq_length(self) -> Any:
        """Number of text columns of each row before this forward pass, (rows, 1).

        An encoder-decoder's decoder adds it to its positions, which it computes itself. All others are given theirs.
        """
        return 0 if self.window is None else self.window.columns[:, :1]


class RowCache(Cache):
    """The layers of one attention site, with the same rows in each.

    Args:
        geometry: Shape of the site.
        device: Device of the keys and values.
        dtype: Their dtype.
    """

    def __init__(self, geometry: SiteGeometry, *, device: torch.device, dtype: torch.dtype) -> None:
        self.rows_layers = [RowLayer(geometry, device=device, dtype=dtype) for _ in range(geometry.num_layers)]
        super().__init__(layers=list(self.rows_layers))
        self._geometry, self._dtype = geometry, dtype
        self._num_rows = self._region = self._columns = 0

    @property
    def region(self) -> int:
        """Number of prefix columns."""
        return self._region

    @property
    def num_bytes(self) -> int:
        """Memory of all layers."""
        return sum(layer.num_bytes for layer in self.rows_layers)

    def reserve(self, *, rows: int, region: int, columns: int) -> None:
        """Make room for at least this many rows, prefix columns and text columns; what is larger stays."""
        self._resize(
            max(_in_blocks(rows, _BLOCK_ROWS), self._num_rows),
            max(region, self._region),
            max(_in_blocks(columns), self._columns),
        )

    def trim(self, *, rows: int, region: int, columns: int) -> None:
        """Free memory if a quarter of it would do for this many rows, prefix columns and text columns."""
        if not rows:
            self._resize(0, 0, 0)
        elif 4 * bytes_for(self._geometry, self._dtype, rows=rows, region=region, columns=columns) <= self.num_bytes:
            self._resize(_in_blocks(rows, _BLOCK_ROWS), region, _in_blocks(columns))

    def _resize(self, rows: int, region: int, columns: int) -> None:
        if (rows, region, columns) != (self._num_rows, self._region, self._columns):
            self._num_rows, self._region, self._columns = rows, region, columns
            for layer in self.rows_layers:
                layer.resize(rows=rows, region=region, columns=columns)

    def write_prefix(self, row: int, layers: Sequence[LayerStates | None]) -> None:
        """Write the prefix of a row; layers without one keep what is there, which their mask hides."""
        for layer, states in zip(self.rows_layers, layers, strict=True):
            if states is not None:
                layer.write_prefix(row, states)

    def copy_row(self, source: int, target: int, *, num_text: int) -> None:
        """Copy a row over another one in every layer."""
        for layer in self.rows_layers:
            layer.copy_row(source, target, num_text=num_text)

    def swap_rows(self, one: int, other: int, *, num_text: int) -> None:
        """Exchange two rows in every layer."""
        for layer in self.rows_layers:
            layer.swap_rows(one, other, num_text=num_text)

    def select(self, window: Window) -> None:
        """Choose the rows and columns of the next forward pass."""
        for layer in self.rows_layers:
            layer.select(window)


def bytes_for(geometry: SiteGeometry, dtype: torch.dtype, *, rows: int, region: int, columns: int) -> int:
    """Memory of a `RowCache` that has room for this many rows, prefix columns and text columns."""
    column = 2 * geometry.num_layers * geometry.kv_width * dtype.itemsize
    return _in_blocks(rows, _BLOCK_ROWS) * (region + _in_blocks(columns)) * column


def _in_blocks(number: int, block: int = _BLOCK_COLUMNS) -> int:
    return -(-number // block) * block
