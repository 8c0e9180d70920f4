"""How texts attend to a context that a decoder-only backbone has read before them, layer by layer.

In: a backbone, a context and texts as token ids. Out: the context's keys and values, and queries of the texts. A prefix
is fitted to them so that texts attend to it as to the context.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from ptl_prefix.backbones.backbone import NO_POSITIONS, Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.backbones.observation import attention_replaced_by
from ptl_prefix.backbones.prefix_attention import explicit_mask, plain_attention

_IMPLEMENTATION = "observed_context"


@dataclass(frozen=True)
class ContextAttention:
    """Attention of one layer to a context.

    Args:
        queries: Queries of the texts, those of all query heads that share a key head together.
        keys: Keys of the context, after the rotary embedding if the model has one.
        values: Values of the context.
        scaling: Factor of the products of queries and keys.
    """

    queries: Float[Tensor, "kv_heads queries head_dim"]
    keys: Float[Tensor, "kv_heads context head_dim"]
    values: Float[Tensor, "kv_heads context head_dim"]
    scaling: float

    def without_first(self, number: int) -> "ContextAttention":
        """The same without the first tokens of the context."""
        return dataclasses.replace(self, keys=self.keys[:, number:], values=self.values[:, number:])


def _observed_attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
    scaling = kwargs.get("scaling")
    module.observed = (query, key, value, query.shape[-1] ** -0.5 if scaling is None else scaling)  # type: ignore[assignment]
    return plain_attention(module, query, key, value, *args, **kwargs)


AttentionInterface.register(_IMPLEMENTATION, _observed_attention)
AttentionMaskInterface.register(_IMPLEMENTATION, explicit_mask)


@torch.no_grad()
def observed_context(
    backbone: Backbone, context: Sequence[int], texts: Sequence[Sequence[int]], *, text_start: int, num_queries: int
) -> list[ContextAttention]:
    """How each layer attends to a context, in float32 on the CPU.

    With rotary embeddings the context ends right before the texts, at negative positions if it is longer than
    `text_start`: only distances count. Learned positions begin at 0: there a longer context shares the positions before
    `text_start`, several tokens each; if there are none, it has its own positions from 0.

    Args:
        backbone: A decoder-only backbone; a prefix in its slots has no effect.
        context: Ids of the context.
        texts: Ids of the texts; each reads the context, and none reads another.
        text_start: Position of the first token of each text.
        num_queries: Most queries of each text and query head, evenly spread over its tokens.
    """
    with attention_replaced_by(backbone, _IMPLEMENTATION, attribute="observed") as sites:
        by_text = []
        for text in texts:
            # One text at a time: what all layers have observed is in memory at once.
            backbone.target_logits(_inputs(backbone, context, text, text_start), NO_POSITIONS)
            observed: list[tuple[Tensor, Tensor, Tensor, float]] = [m.observed for m in sites["decoder_self"]]  # type: ignore[misc]
            by_text.append([_of_text(layer, len(context), num_queries) for layer in observed])
    return [_merged(layers) for layers in zip(*by_text, strict=True)]


def _inputs(backbone: Backbone, context: Sequence[int], text: Sequence[int], text_start: int) -> ModelInputs:
    before = _positions(len(context), text_start, is_learned=backbone.has_hard_position_limit)
    positions = [*before, *range(text_start, text_start + len(text))]
    ids = torch.tensor([[*context, *text]])
    return ModelInputs(ids, torch.ones_like(ids), position_ids=torch.tensor([positions])).to(backbone.device)


def _positions(number: int, end: int, *, is_learned: bool) -> list[int]:
    """Positions of a context that is read right before `end`."""
    if not is_learned:
        return list(range(end - number, end))
    return [index * end // number for index in range(number)] if 0 < end < number else list(range(number))


def _of_text(layer: tuple[Tensor, Tensor, Tensor, float], num_context: int, num_queries: int) -> ContextAttention:
    query, key, value, scaling = layer
    in_text = query.shape[2] - num_context
    kept = min(num_queries, in_text)
    columns = num_context + torch.arange(kept) * in_text // kept
    queries = query[0, :, columns.to(query.device)].float().cpu()  # (heads, queries, head_dim)
    keys, values = (tensor[0, :, :num_context].float().cpu() for tensor in (key, value))
    # Query heads that share a key head are next to each other.
    return ContextAttention(queries.reshape(keys.shape[0], -1, keys.shape[2]), keys, values, scaling)


def _merged(layers: Sequence[ContextAttention]) -> ContextAttention:
    """The queries of all texts; in a causal model the context is the same for each."""
    queries = torch.cat([layer.queries for layer in layers], dim=1)
    return ContextAttention(queries, layers[0].keys, layers[0].values, layers[0].scaling)
