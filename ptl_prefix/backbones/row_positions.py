"""The positions of an encoder-decoder's decoder, for rows of unequal length.

In: a model. Out: the same model, whose decoder counts the positions of each row from that row's own length. A
decoder-only model is given its positions; the decoder of an encoder-decoder computes them from the length of its cache,
which transformers takes for one number. A `RowCache` states one length per row, (rows, 1), and these two places use it:
BART's table of learned positions and T5's relative position bias.
"""

import types
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def positions_by_row(model: nn.Module) -> Iterator[None]:
    """Inside, the decoder counts positions for each row."""
    decoder: Any = model.get_decoder()  # type: ignore[operator]
    biased = [module for module in decoder.modules() if getattr(module, "has_relative_attention_bias", False)]
    with ExitStack() as undo:
        for module in biased:
            module.compute_bias = types.MethodType(_bias_by_row, module)
            undo.callback(delattr, module, "compute_bias")
        if (table := getattr(decoder, "embed_positions", None)) is not None:
            # Given (rows, new) positions, it puts an axis of one row for all before them.
            hook = table.register_forward_hook(lambda _, arguments, found: found[0] if found.dim() == 4 else found)
            undo.callback(hook.remove)
        yield


def _bias_by_row(
    self: Any, query_length: int, key_length: int, device: torch.device | None = None, past_seen_tokens: Any = 0
) -> Tensor:
    """The bias of each row, (rows, heads, queries, keys); `past_seen_tokens` is (rows, 1)."""
    queries = torch.arange(query_length, device=device)[None, :, None] + past_seen_tokens[..., None]
    distances = torch.arange(key_length, device=device) - queries  # (rows, queries, keys)
    buckets = self._relative_position_bucket(
        distances,
        bidirectional=False,
        num_buckets=self.relative_attention_num_buckets,
        max_distance=self.relative_attention_max_distance,
    )
    bias: Tensor = self.relative_attention_bias(buckets)  # (rows, queries, keys, heads)
    return bias.permute(0, 3, 1, 2)
