"""Prefixes of random numbers, and the two references that a prefix in attention is compared with."""

import dataclasses
from collections.abc import Sequence

import torch
from support.toy_batches import written_mask
from torch import Tensor
from transformers import DynamicCache

from ptl_prefix.backbones.attention_additions import AttentionAddition, GatedStates, QueryMap
from ptl_prefix.backbones.attention_sites import SiteGeometry, num_query_heads
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.backbones.prefix_states import LayerStates, PrefixStates


def random_states(
    backbone: Backbone,
    length: int,
    *,
    seed: int = 0,
    layers: Sequence[int] | None = None,
    sites: Sequence[str] | None = None,
    shifted: bool = True,
) -> PrefixStates:
    """One row of keys and values as large as those of the tiny backbones, at all layers and sites or some."""
    generator = torch.Generator().manual_seed(seed)
    drawn_sites = {}
    for site, geometry in backbone.geometry.items():
        shape = (2, 1, geometry.num_kv_heads, length, geometry.head_dim)
        drawn = [torch.randn(shape, generator=generator) for _ in range(geometry.num_layers)]
        mask = torch.ones(1, length, dtype=torch.bool)
        drawn_sites[site] = tuple(
            LayerStates(key, value, mask)
            if (layers is None or index in layers) and (sites is None or site in sites)
            else None
            for index, (key, value) in enumerate(drawn)
        )
    return PrefixStates(drawn_sites, torch.tensor([length if shifted else 0]))


def random_additions(backbone: Backbone, kind: str, *, length: int = 3, seed: int = 0) -> PrefixStates:
    """Gated states (`gated`) or maps of the query (`map`) of random numbers, at all layers and sites; no columns."""
    generator = torch.Generator().manual_seed(seed)
    num_heads = num_query_heads(backbone.config)

    def drawn(site: str, shape: SiteGeometry) -> AttentionAddition:
        if kind == "map":
            size = (shape.num_kv_heads, shape.head_dim, shape.head_dim)
            return QueryMap(torch.randn(size, generator=generator) / 4, "elu")
        key, value = torch.randn(2, shape.num_kv_heads, length, shape.head_dim, generator=generator)
        return GatedStates(key, value, torch.randn(num_heads[site], generator=generator))

    additions = {
        site: tuple(drawn(site, shape) for _ in range(shape.num_layers)) for site, shape in backbone.geometry.items()
    }
    return dataclasses.replace(random_states(backbone, 1, layers=[], shifted=False), additions=additions)


@torch.no_grad()
def logits_with(backbone: Backbone, states: PrefixStates, inputs: ModelInputs) -> list[Tensor]:
    """For each row the logits at its text, with `states` in the slots; the slots are taken and given back."""
    backbone.slots.acquire()
    try:
        backbone.slots.fill(states)
        logits = backbone.logits(inputs.with_positions(states.text_offset(inputs.input_ids.shape[1])))
    finally:
        backbone.slots.release()
    return [row[mask.bool()] for row, mask in zip(logits, written_mask(inputs), strict=True)]


@torch.no_grad()
def logits_through_a_cache(backbone: Backbone, states: PrefixStates, inputs: ModelInputs) -> list[Tensor]:
    """The same by way of `past_key_values`, as PEFT and the paper's code do it, on the bare model."""
    layers = []
    for layer in states.sites["decoder_self"]:
        assert layer is not None, "a cache has the same length at every layer"
        rows = layer.for_rows(inputs.num_rows)
        layers.append((rows.key.clone(), rows.value.clone()))
    logits = backbone.model(
        input_ids=inputs.input_ids,
        attention_mask=torch.cat([rows.mask.long(), inputs.attention_mask], dim=1),
        position_ids=inputs.with_positions(states.position_offset).position_ids,
        past_key_values=DynamicCache(layers),
    ).logits
    return [row[mask.bool()] for row, mask in zip(logits, inputs.attention_mask, strict=True)]


def naive_attention(
    query: Tensor, key: Tensor, value: Tensor, visible: Tensor, bias: Tensor | float = 0.0, scale: float = 1.0
) -> Tensor:
    """softmax(Q K' / sqrt(d) + bias) V' with every head written out: (batch, queries, heads, head_dim)."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = query @ key.transpose(-1, -2) * scale + bias
    weights = scores.masked_fill(~visible, float("-inf")).softmax(dim=-1)
    return (weights @ value).transpose(1, 2)
