"""A batch whose rows join and leave between forward passes, each with its own prefix, or none.

In: a backbone; for each row its prefix and its tokens, as they come. Out: next-token logits, the same as if each row
were computed alone.

A row's prompt is read in chunks, and the chunk that ends it has the logits of the first new token. From then on the row
steps: each step takes one token of every row.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from ptl_prefix.backbones.attention_masks import text_masks
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.batch_row import Row, visible_prefixes
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.backbones.prefix_states import PrefixStates
from ptl_prefix.backbones.row_cache import RowCache, Window, bytes_for
from ptl_prefix.backbones.row_positions import positions_by_row

_SELF, _CROSS, _ENCODER = "decoder_self", "decoder_cross", "encoder_self"


class RowBatch:
    """Rows that share a backbone's forward passes.

    Args:
        backbone: The backbone; it belongs to this batch's thread while a forward pass runs.
        activate: Called before each forward pass, for a method that acts through more than its states.
    """

    def __init__(self, backbone: Backbone, *, activate: Callable[[], None] = lambda: None) -> None:
        self._backbone = backbone
        self._activate = activate
        self._rows: list[Row] = []
        self._caches = {
            site: RowCache(geometry, device=backbone.device, dtype=backbone.dtype)
            for site, geometry in backbone.geometry.items()
            if site != _ENCODER
        }
        self._cache: Any = self._caches[_SELF]
        if _CROSS in self._caches:
            self._cache = EncoderDecoderCache(self._caches[_SELF], self._caches[_CROSS])
        self._may_trim = False
        backbone.slots.acquire()

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(self._rows)

    @property
    def num_bytes(self) -> int:
        """Memory of all keys and values, unused columns included."""
        return sum(cache.num_bytes for cache in self._caches.values())

    @staticmethod
    def bytes_for(backbone: Backbone, *, rows: int, region: int, columns: int) -> int:
        """Memory of a batch with this many rows, prefix columns and columns of text, of each text it attends to."""
        sites = [geometry for site, geometry in backbone.geometry.items() if site != _ENCODER]
        return sum(bytes_for(site, backbone.dtype, rows=rows, region=region, columns=columns) for site in sites)

    def close(self) -> None:
        """Drop all rows, and give the backbone's attention back."""
        self._rows.clear()
        self._may_trim = True
        self._trim()
        self._backbone.slots.release()

    def reserve(self, *, num_new_rows: int, region: int, columns: int) -> None:
        """Make room for rows that will join, at once: a cache that grows with each of them is copied each time.

        Args:
            num_new_rows: Number of rows that will join.
            region: Length of their longest prefix.
            columns: Number of text columns of the one that needs most.
        """
        rows = self.num_rows + num_new_rows
        for site, cache in self._caches.items():
            cache.reserve(rows=rows, region=region, columns=columns if site == _SELF else 0)

    def join(self, states: PrefixStates | None, *, prefix_from: int = 0, num_columns: int = 0) -> Row:
        """Add a row without text.

        Args:
            states: Its prefix, one row of states in the backbone's dtype and on its device.
            prefix_from: See `Row`.
            num_columns: Number of text columns that the row is expected to need; more are allocated when they are.

        Raises:
            ValueError: When the additions of `states` are not those of the other rows.
        """
        row = Row(len(self._rows), states, prefix_from)
        other = self._rows[0] if self._rows else row
        if (row.additions or other.additions) and row.additions is not other.additions:
            raise ValueError("Rows with additions to attention must be of one bundle, but these are of several.")
        for site, cache in self._caches.items():
            columns = num_columns if site == _SELF else 0
            cache.reserve(rows=row.index + 1, region=row.prefix_length(site), columns=columns)
            if states is not None:
                cache.write_prefix(row.index, states.sites[site])
        self._rows.append(row)
        return row

    def leave(self, row: Row) -> None:
        """Remove a row; the last one takes its place."""
        last = self._rows[-1]
        if last is not row:
            for site, cache in self._caches.items():
                cache.copy_row(last.index, row.index, num_text=_num_columns(last, site))
            last.index = row.index
            self._rows[row.index] = last
        self._rows.pop()
        self._may_trim = True
        if not self._rows:
            self._trim()

    @torch.no_grad()
    def encode(self, row: Row, inputs: ModelInputs, start_ids: Sequence[int]) -> None:
        """Let an encoder read a row's source, and the decoder its start, all but the last id.

        Args:
            row: The row, without text.
            inputs: The source, one row, with prompt rows if a method adds some.
            start_ids: The ids that the decoder's text starts with.
        """
        self._gather([row], at_end=True)
        self._caches[_CROSS].reserve(rows=self.num_rows, region=0, columns=inputs.num_columns_read)
        with self._running():
            if row.states is not None:
                self._backbone.slots.fill(row.states)
            arguments = self._backbone.input_arguments(inputs)
            encoded = self._backbone.model.get_encoder()(**arguments).last_hidden_state
            row.num_source = encoded.shape[1]
            # The first forward pass of the decoder computes the keys and values of the source.
            self._forward([row], [list(start_ids[:-1]) or [start_ids[0]]], encoded=encoded)
        row.length = len(start_ids) - 1

    @torch.no_grad()
    def read(self, chunks: Sequence[tuple[Row, Sequence[int]]]) -> Float[Tensor, "rows vocabulary"]:
        """Add the next tokens of some rows, and compute the logits after the last one of each.

        Args:
            chunks: Rows, each with its next tokens, at least one. A chunk does not cross the row's `prefix_from`.

        Returns:
            One row of logits for each of `chunks`, in their order.
        """
        rows, ids = [row for row, _ in chunks], [list(chunk) for _, chunk in chunks]
        assert all(not row.length < row.prefix_from < row.length + len(chunk) for row, chunk in chunks)
        self._gather(rows, at_end=True)
        first = self.num_rows - len(rows)
        places = torch.tensor([row.index - first for row in rows], device=self._backbone.device)
        ends = torch.tensor([len(chunk) - 1 for chunk in ids], device=self._backbone.device)
        with self._running(), self._backbone.lm_head_at((places, ends)):
            logits = self._forward(self._rows[first:], _in_order(self._rows[first:], rows, ids))
        for row, chunk in chunks:
            row.length += len(chunk)
        return logits

    @torch.no_grad()
    def step(self, tokens: Sequence[tuple[Row, int]]) -> Float[Tensor, "rows vocabulary"]:
        """Add one token to some rows, and compute the logits of the next one.

        Args:
            tokens: Rows, each with its next token.

        Returns:
            One row of logits for each of `tokens`, in their order.
        """
        rows = [row for row, _ in tokens]
        self._gather(rows, at_end=False)
        ordered = self._rows[: len(rows)]
        with self._running():
            logits = self._forward(ordered, _in_order(ordered, rows, [[token] for _, token in tokens]))[:, -1]
        for row in rows:
            row.length += 1
        if all(row.index == place for place, row in enumerate(rows)):
            return logits
        return logits[[row.index for row in rows]]

    def _forward(self, rows: Sequence[Row], ids: Sequence[list[int]], *, encoded: Tensor | None = None) -> Tensor:
        """One forward pass over neighbouring rows; short rows are padded with tokens that nothing reads later."""
        num_new = max(map(len, ids))
        device = self._backbone.device
        lengths = torch.tensor([row.length for row in rows], device=device)
        columns = lengths[:, None] + torch.arange(num_new, device=device)  # (rows, new)
        width = int(lengths.max()) + num_new
        padded = torch.tensor(
            [chunk + [self._backbone.pad_id] * (num_new - len(chunk)) for chunk in ids], device=device
        )
        self._select(rows, columns, width, is_encoded=encoded is None)
        masks = text_masks(columns, width, self._backbone.config)
        if not self._backbone.is_encoder_decoder:
            offsets = torch.tensor([[row.offset] for row in rows], device=device)
            positions = self._bounded(columns + offsets)
            return self._call(input_ids=padded, attention_mask=masks, position_ids=positions)
        sources = torch.tensor([row.num_source for row in rows], device=device)
        read = torch.arange(int(sources.max()), device=device) < sources[:, None]  # (rows, source)
        hidden = encoded if encoded is not None else columns.new_zeros(len(rows), 1, 1, dtype=self._backbone.dtype)
        with positions_by_row(self._backbone.model):
            return self._call(
                decoder_input_ids=padded,
                decoder_attention_mask=masks,
                attention_mask=read[:, None, None, :].expand(-1, 1, num_new, -1),
                encoder_outputs=BaseModelOutput(last_hidden_state=hidden),
            )

    def _call(self, **arguments: Any) -> Tensor:
        logits: Tensor = self._backbone.model(**arguments, past_key_values=self._cache, use_cache=True).logits
        return logits

    def _bounded(self, positions: Tensor) -> Tensor:
        """Positions of padding may lie past a table of learned positions."""
        limit = self._backbone.max_positions if self._backbone.has_hard_position_limit else None
        return positions if limit is None else positions.clamp(max=limit - 1)

    def _select(self, rows: Sequence[Row], columns: Tensor, width: int, *, is_encoded: bool) -> None:
        """Choose the rows of the next forward pass in the caches, and show their prefixes to attention."""
        self._trim()
        start, stop = rows[0].index, rows[0].index + len(rows)
        lengths = {site: max(row.prefix_length(site) for row in rows) for site in self._caches}
        aligned = rows[0].length if len({row.length for row in rows}) == 1 else None
        cache = self._caches[_SELF]
        cache.reserve(rows=self.num_rows, region=0, columns=width)
        cache.select(Window(start, stop, lengths[_SELF], columns, width, aligned))
        if _CROSS in self._caches:
            num_read = max(row.num_source for row in rows)
            read = torch.arange(num_read, device=columns.device)[None]
            self._caches[_CROSS].select(Window(start, stop, lengths[_CROSS], read, num_read, 0))
            self._cache.is_updated = dict.fromkeys(range(len(self._caches[_CROSS])), is_encoded)
        self._backbone.slots.fill(visible_prefixes(rows, lengths, self._backbone))

    @contextmanager
    def _running(self) -> Iterator[None]:
        backbone = self._backbone
        mode = backbone.model.training
        if mode:  # setting it visits every module
            backbone.model.eval()
        try:
            with backbone.slots.exclusive():
                self._activate()
                yield
        finally:
            backbone.slots.clear()
            if mode:
                backbone.model.train()

    def _gather(self, rows: Sequence[Row], *, at_end: bool) -> None:
        """Make some rows neighbours, at the end or at the start of the batch."""
        chosen = set(rows)
        first = self.num_rows - len(rows) if at_end else 0
        places = range(first, first + len(rows))
        strangers = [self._rows[place] for place in places if self._rows[place] not in chosen]
        outside = [row for row in rows if row.index not in places]
        for stranger, row in zip(strangers, outside, strict=True):
            self._swap(stranger, row)

    def _swap(self, one: Row, other: Row) -> None:
        for site, cache in self._caches.items():
            num_text = max(_num_columns(row, site) for row in (one, other))
            cache.swap_rows(one.index, other.index, num_text=num_text)
        one.index, other.index = other.index, one.index
        self._rows[one.index], self._rows[other.index] = one, other

    def _trim(self) -> None:
        """Free memory when rows have left and a quarter of it would do."""
        if not self._may_trim:
            return
        self._may_trim = False
        for site, cache in self._caches.items():
            cache.trim(
                rows=self.num_rows,
                region=max((row.prefix_length(site) for row in self._rows), default=0),
                columns=max((_num_columns(row, site) for row in self._rows), default=0),
            )


def _in_order(ordered: Sequence[Row], rows: Sequence[Row], ids: Sequence[list[int]]) -> list[list[int]]:
    """The ids of each row, in the order of the batch."""
    by_row = dict(zip(rows, ids, strict=True))
    return [by_row[row] for row in ordered]


def _num_columns(row: Row, site: str) -> int:
    return row.num_source if site == _CROSS else row.length
