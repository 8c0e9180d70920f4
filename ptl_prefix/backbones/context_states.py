"""The keys and values of a context, read once for all texts that follow it.

In: a decoder-only backbone and a context as token ids. Out: the context as `PrefixStates`, with which a text is
computed as after the context itself; or what attention matching needs to compress it: its keys and values, and queries
of texts that follow.

No text reaches back into the context of a causal model, so its keys and values do not depend on the text. In layers
with a sliding window a text would see more of these states than of the context, and the encoder of an encoder-decoder
reads both together: there a context must be read with each text.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from ptl_prefix.backbones.backbone import NO_POSITIONS, Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.backbones.observation import attention_replaced_by, observed_text
from ptl_prefix.backbones.observed_context import ContextAttention
from ptl_prefix.backbones.prefix_attention import explicit_mask, prefix_attention
from ptl_prefix.backbones.prefix_cache import has_attention_windows
from ptl_prefix.backbones.prefix_states import PrefixStates, layers_of_table

_IMPLEMENTATION = "observed_prefix_attention"
_SITE = "decoder_self"


def reading_problem(backbone: Backbone) -> str | None:
    """Why a context cannot be read before its texts, as the end of a sentence; `None` if it can."""
    if backbone.is_encoder_decoder:
        return f"{backbone.name} is an encoder-decoder, whose encoder reads context and question together"
    if has_attention_windows(backbone.model):
        return f"{backbone.name} has layers with a sliding window, which see only the end of a context"
    return None


def context_states(backbone: Backbone, context: Sequence[int]) -> PrefixStates:
    """The keys and values of a context, as a prefix; texts have the positions after it.

    Args:
        backbone: A backbone without a `reading_problem`; a prefix in its slots has no effect.
        context: Ids of the context, from the start of the text on.
    """
    table = observed_text(backbone, context)[_SITE]
    states = PrefixStates({_SITE: tuple(layers_of_table(table))}, torch.tensor([len(context)]))
    return states.to(device=backbone.device, dtype=backbone.dtype)


def _observed_attention(module: nn.Module, query: Tensor, *args: Any, **kwargs: Any) -> Any:
    scaling = kwargs.get("scaling")
    module.observed = (query, query.shape[-1] ** -0.5 if scaling is None else scaling)  # type: ignore[assignment]
    return prefix_attention(module, query, *args, **kwargs)


AttentionInterface.register(_IMPLEMENTATION, _observed_attention)
AttentionMaskInterface.register(_IMPLEMENTATION, explicit_mask)


@torch.no_grad()
def attention_to_context(
    backbone: Backbone, context: Sequence[int], texts: Sequence[Sequence[int]], *, num_queries: int
) -> list[ContextAttention]:
    """How each layer attends to a context that is read once, from its start on; float32 on the CPU.

    `observed_context` reads the context with each text, and can put it before any position.

    Args:
        backbone: As in `context_states`.
        context: Ids of the context.
        texts: Ids of the texts, each of which follows the context.
        num_queries: Most queries of each text and query head, evenly spread over its tokens.
    """
    states = context_states(backbone, context)
    backbone.slots.acquire()
    try:
        with attention_replaced_by(backbone, _IMPLEMENTATION, attribute="observed") as sites:
            backbone.slots.fill(states)
            by_text = []
            for text in texts:
                ids = torch.tensor([list(text)], device=backbone.device)
                inputs = ModelInputs(ids, torch.ones_like(ids)).with_positions(len(context))
                backbone.target_logits(inputs, NO_POSITIONS)
                observed: list[tuple[Tensor, float]] = [module.observed for module in sites[_SITE]]  # type: ignore[misc]
                by_text.append([(_spread(query, num_queries), scaling) for query, scaling in observed])
    finally:
        backbone.slots.release()
    return [_joined(layer, states, index) for index, layer in enumerate(zip(*by_text, strict=True))]


def _spread(query: Tensor, number: int) -> Tensor:
    """Some queries of a text, (heads, queries, head_dim)."""
    in_text = query.shape[2]
    kept = min(number, in_text)
    columns = torch.arange(kept, device=query.device) * in_text // kept
    return query[0, :, columns].float().cpu()


def _joined(by_text: Sequence[tuple[Tensor, float]], states: PrefixStates, index: int) -> ContextAttention:
    """The queries of all texts beside one layer's keys and values of the context."""
    layer = states.sites[_SITE][index]
    assert layer is not None
    keys, values = layer.key[0].float().cpu(), layer.value[0].float().cpu()
    # Query heads that share a key head are next to each other.
    queries = [query.reshape(keys.shape[0], -1, keys.shape[2]) for query, _ in by_text]
    return ContextAttention(torch.cat(queries, dim=1), keys, values, by_text[0][1])
