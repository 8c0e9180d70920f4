"""Greedy decoding of a decoder-only backbone, in which rows that have ended leave the batch.

In: conditioned prompts. Out: the generated ids of each. Outputs of one batch differ in length; `generate` of
transformers computes every row until the longest one ends. Here the batch shrinks whenever a quarter of its rows have
ended. A row's logits are the same up to the rounding of matrix products of another size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache

from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs

_ROWS_KEPT = 0.75
"""The batch shrinks when at most this share of its rows is left: its cache is copied then."""


def can_decode_greedily(backbone: Backbone, inputs: ModelInputs, decoding: Decoding) -> bool:
    """Whether `decode_greedily` is for these settings, and for the states in the slots: all rows share them."""
    plain = decoding.num_beams == 1 and not decoding.do_sample and decoding.no_repeat_ngram_size == 0
    if backbone.is_encoder_decoder or not plain:
        return False
    layers = (layer for layers in backbone.slots.filled().values() for layer in layers if layer is not None)
    return all(layer.key.shape[0] == 1 and layer.first_visible is None for layer in layers)


def decode_greedily(
    backbone: Backbone, inputs: ModelInputs, decoding: Decoding, stop_ids: Sequence[int]
) -> list[list[int]]:
    """The most likely ids after each prompt, up to and including the first stop id.

    Args:
        backbone: The backbone, its slots filled by a method if there is one.
        inputs: Prompts that are padded on the left, with positions.
        decoding: Decoding settings; see `can_decode_greedily`.
        stop_ids: Ids that end a continuation.
    """
    assert inputs.position_ids is not None
    width, device = inputs.input_ids.shape[1], backbone.device
    cache = backbone.slots.cache(read=0, written=width + decoding.max_new_tokens)
    cache = DynamicCache(config=backbone.config) if cache is None else cache
    stops = torch.tensor(list(stop_ids), dtype=torch.long, device=device)
    written = torch.full((inputs.num_rows, decoding.max_new_tokens), backbone.pad_id, device=device)
    state = _State(inputs.input_ids, inputs.attention_mask, inputs.position_ids)
    rows = torch.arange(inputs.num_rows, device=device)  # the prompt that each row of the batch continues
    ended = torch.zeros_like(rows, dtype=torch.bool)
    for step in range(decoding.max_new_tokens):
        logits = state.next_logits(backbone, cache)  # (rows, vocabulary)
        if step < decoding.min_new_tokens:
            logits[:, stops] = -torch.inf
        ids = logits.argmax(dim=-1)
        written[rows[~ended], step] = ids[~ended]
        ended = ended | torch.isin(ids, stops)
        num_left = int((~ended).sum())
        if not num_left:
            break
        state = state.followed_by(ids)
        if num_left <= _ROWS_KEPT * len(rows):
            kept = (~ended).nonzero()[:, 0]
            cache.reorder_cache(kept)  # type: ignore[arg-type]  # an index tensor of int64
            state, rows, ended = state.rows(kept), rows[kept], ended[kept]
    return [list(ids) for ids in written.tolist()]


@dataclass(frozen=True)
class _State:
    """What the next forward pass reads.

    Args:
        ids: The ids that are not in the cache yet.
        mask: 1 for text, 0 for padding, of the columns in the cache and of `ids`.
        positions: Positions of `ids`.
    """

    ids: Int[Tensor, "rows new"]
    mask: Int[Tensor, "rows columns"]
    positions: Int[Tensor, "rows new"]

    def next_logits(self, backbone: Backbone, cache: Cache) -> Float[Tensor, "rows vocabulary"]:
        """The logits after the last id, computed there only; the cache gets the new columns."""
        with backbone.lm_head_at((slice(None), slice(-1, None))):
            logits: Tensor = backbone.model(
                input_ids=self.ids,
                attention_mask=self.mask,
                position_ids=self.positions,
                past_key_values=cache,
                use_cache=True,
            ).logits  # (rows, 1, vocabulary)
        return logits[:, -1]

    def followed_by(self, ids: Int[Tensor, " rows"]) -> "_State":
        """The state after one id for each row was chosen."""
        mask = torch.cat([self.mask, self.mask.new_ones(len(ids), 1)], dim=1)
        return _State(ids[:, None], mask, self.positions[:, -1:] + 1)

    def rows(self, rows: Int[Tensor, " kept"]) -> "_State":
        """The state of some rows."""
        return _State(self.ids[rows], self.mask[rows], self.positions[rows])
