"""Attention over [prefix; text]: K' = [P_K; K], V' = [P_V; V] (Li & Liang, 2021, section 4).

In: one layer's queries, keys and values. Out: attention over the prefix in the layer's slot and the text, plus the
addition in its other slot, if there is one.

transformers looks up attention functions by name. The one registered here reads the slots of the calling module, so
this file serves every family and every attention site.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ptl_prefix.backbones.attention_additions import AttentionAddition
from ptl_prefix.backbones.prefix_states import LayerStates

IMPLEMENTATION = "prefix_attention"
"""The name under which `prefix_attention` and its mask are registered. It must not contain "sdpa": models that do not
support the library's SDPA would refuse it."""


def prefix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    position_bias: Tensor | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend to the module's prefix, if there is one, and to the text; add the module's addition, if there is one.

    Args:
        module: The attention module; its `prefix_slot` holds `LayerStates`, its `addition_slot` an
            `AttentionAddition`; each may be `None`.
        query: (batch, heads, queries, head_dim).
        key: (batch, kv_heads, keys, head_dim), cached text included; with the prefix in front if it comes from a cache
            of `prefix_cache`.
        value: As `key`.
        attention_mask: (batch or 1, 1, queries, keys); True or 0.0 where a query sees a key. Never `None`: see
            `explicit_mask`.
        position_bias: T5's relative position bias, (1, heads, queries, keys).
        softcap: Gemma 2's bound on attention scores; `None` for none.
        kwargs: Other arguments of transformers' SDPA.

    Returns:
        The attention output, (batch, queries, heads, head_dim), and `None` for the attention weights.
    """
    slot: LayerStates | None = module.prefix_slot  # type: ignore[assignment]
    if slot is not None:
        batch, _, queries, _ = query.shape
        text_keys = attention_mask.shape[-1]
        visible = slot.visible(batch, queries, keys=text_keys)  # (batch, 1, queries, prefix)
        if key.shape[2] == text_keys:  # else the keys come from a cache that starts with the prefix
            slot = slot.for_rows(batch)  # one row is shared by all; several rows repeat for their beams
            key = torch.cat([slot.key, key], dim=2)  # (batch, kv_heads, prefix + keys, head_dim)
            value = torch.cat([slot.value, value], dim=2)
        attention_mask = _with_prefix(attention_mask.expand(batch, -1, -1, -1), visible)
        if position_bias is not None:
            # A prefix has no distance to the text, so its relative position bias is zero. transformers counts the
            # columns of a cache, so with one that starts with the prefix there is bias for more than the text.
            position_bias = nn.functional.pad(position_bias[..., :text_keys], (slot.length, 0))
    output, _ = plain_attention(
        module, query, key, value, attention_mask, position_bias=position_bias, softcap=softcap, **kwargs
    )
    addition: AttentionAddition | None = module.addition_slot  # type: ignore[assignment]
    if addition is None:
        return output, None
    # The module's own attention, scale and softcap included, of the same queries to other keys.
    attend = partial(_attended, module, query, softcap=softcap, **kwargs)
    return output + addition.output(query, attend), None


def _attended(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, visible: Tensor, **kwargs: Any) -> Tensor:
    return plain_attention(module, query, key, value, visible, **kwargs)[0]


def plain_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    *,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention without a prefix: transformers' SDPA, or an explicit one for capped scores.

    The arguments are those of `prefix_attention`.
    """
    if softcap is not None:
        return _softcapped_attention(module, query, key, value, attention_mask, softcap=softcap, **kwargs), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


def _with_prefix(attention_mask: Tensor, visible: Tensor) -> Tensor:
    """The attention mask of [prefix; text]."""
    if attention_mask.dtype != torch.bool:
        hidden = torch.finfo(attention_mask.dtype).min
        visible = torch.zeros_like(visible, dtype=attention_mask.dtype).masked_fill(~visible, hidden)
    return torch.cat([visible, attention_mask], dim=-1)


def _softcapped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    *,
    softcap: float,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> Tensor:
    """Attention with scores bounded by `softcap * tanh(scores / softcap)`, which SDPA does not support."""
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = softcap * torch.tanh(scores / softcap)  # (batch, heads, queries, prefix + keys)
    if attention_mask.dtype == torch.bool:
        # Not -inf: a row of padding, which sees no key, would become NaN.
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    else:
        scores = scores + attention_mask
    precise = torch.promote_types(query.dtype, torch.float32)
    weights = nn.functional.softmax(scores, dim=-1, dtype=precise).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous()


def explicit_mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """The mask of transformers' SDPA, never omitted.

    Without a mask, SDPA aligns a causal mask with the first keys: after a prefix, text would be masked silently.
    """
    return sdpa_mask(*args, **{**kwargs, "allow_is_causal_skip": False, "allow_is_bidirectional_skip": False})


AttentionInterface.register(IMPLEMENTATION, prefix_attention)
AttentionMaskInterface.register(IMPLEMENTATION, explicit_mask)
