"""How much of its attention a backbone gives to the prefix in its slots.

In: a backbone whose slots are filled, and a batch. Out: at every site and layer, for each head and each position of the
prefix, the weight that falls on it, summed over the batch's queries; and how large the text's own keys and values are.

Attention is linear in its values, softmax(Q K'ᵀ) V', so nothing of it is written down a second time here. The function
of the forward pass is asked once more, with values of 1 at one position of the prefix and 0 everywhere else: what comes
out is that position's weight, under the same mask, the same position bias and the same grouping of heads.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from ptl_prefix.backbones.backbone import NO_POSITIONS, Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.backbones.observation import attention_replaced_by
from ptl_prefix.backbones.prefix_attention import explicit_mask, prefix_attention
from ptl_prefix.backbones.prefix_states import LayerStates

_IMPLEMENTATION = "measured_prefix_attention"


@dataclass(frozen=True)
class LayerMass:
    """The attention that one layer gives to its prefix, summed over queries, and the text beside it.

    Args:
        weights: For each head and prefix position the sum of its attention weights.
        even: What the whole prefix would get from one head that looks at every visible position alike.
        num_queries: How many queries were summed: those that see any of the prefix and are no padding.
        text_squares: Of the text's own keys, and of its values, the mean square over heads and channels, summed over
            positions.
        num_keys: How many positions those were.
    """

    weights: Float[Tensor, "heads prefix"]
    even: float
    num_queries: int
    text_squares: Float[Tensor, " two"]
    num_keys: int

    def __add__(self, more: Self) -> Self:
        """Both batches together."""
        return type(self)(*(getattr(self, f.name) + getattr(more, f.name) for f in dataclasses.fields(self)))


@torch.no_grad()
def prefix_mass(backbone: Backbone, inputs: ModelInputs) -> dict[str, tuple[LayerMass | None, ...]]:
    """The attention that each layer gives to its prefix; `None` where a layer has none.

    Args:
        backbone: Its slots are filled.
        inputs: Conditioned by the method that filled them.
    """
    with attention_replaced_by(backbone, _IMPLEMENTATION, leaving="observed_mass") as sites:
        with _knowing_its_queries(backbone, list(itertools.chain(*sites.values()))):
            backbone.target_logits(inputs, NO_POSITIONS)
        return {site: tuple(vars(module).get("observed_mass") for module in sites[site]) for site in sites}


@contextmanager
def _knowing_its_queries(backbone: Backbone, modules: Iterable[nn.Module]) -> Iterator[None]:
    """Tell every attention module which of its queries are text: its mask speaks of keys only."""
    encoder = set(backbone.model.get_encoder().modules()) if backbone.is_encoder_decoder else set()

    def tell(_: nn.Module, __: Any, given: Mapping[str, Any]) -> None:
        for module in modules:
            of_source = module in encoder or not backbone.is_encoder_decoder
            # A decoder that is given no mask reads no padding.
            counted: Tensor | None = given.get("attention_mask" if of_source else "decoder_attention_mask")
            module.text_queries = counted  # type: ignore[assignment]

    hook = backbone.model.register_forward_pre_hook(tell, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
        for module in modules:
            vars(module).pop("text_queries", None)


def _measured_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, *args: Any, **kwargs: Any
) -> Any:
    if module.prefix_slot is not None:
        module.observed_mass = _layer_mass(module, query, key, value, attention_mask, *args, **kwargs)  # type: ignore[assignment]
    return prefix_attention(module, query, key, value, attention_mask, *args, **kwargs)


def _layer_mass(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, *args: Any, **kwargs: Any
) -> LayerMass:
    given = (key, value, attention_mask, *args)
    weights = _prefix_weights(module, query, *given, **kwargs)  # (batch, queries, heads, prefix)
    # Without a query's content every visible position weighs the same; a position bias would prefer some.
    alike = _prefix_weights(module, torch.zeros_like(query), *given, **{**kwargs, "position_bias": None})
    even = alike[:, :, 0].sum(dim=-1)  # (batch, queries)
    text: Tensor | None = module.text_queries  # type: ignore[assignment]
    counted = (even > 0) if text is None else (even > 0) & text.bool()
    # A key that no query sees is padding.
    seen = (attention_mask if attention_mask.dtype == torch.bool else attention_mask == 0).any(dim=(1, 2))
    squares = torch.stack([states.float().square().mean(dim=(1, 3)) for states in (key, value)])  # (2, batch, keys)
    return LayerMass(
        weights=torch.einsum("bqhp,bq->hp", weights, counted.float()),
        even=float(even[counted].sum()),
        num_queries=int(counted.sum()),
        text_squares=(squares * seen).sum(dim=(1, 2)),
        num_keys=int(seen.expand(squares.shape[1:]).sum()),
    )


def _prefix_weights(module: nn.Module, *args: Any, **kwargs: Any) -> Float[Tensor, "batch queries heads prefix"]:
    """The attention weights on the prefix, in float32: a softmax in bfloat16 would lose small ones."""
    slot: LayerStates = module.prefix_slot  # type: ignore[assignment]
    query, key, value, *rest = map(_in_float32, args)
    options = {name: _in_float32(option) for name, option in kwargs.items()}
    at_once = value.shape[-1]  # as many positions as one output has channels
    parts = []
    try:
        for start in range(0, slot.length, at_once):
            ones = _one_hot_values(slot, start)
            module.prefix_slot = dataclasses.replace(slot, key=slot.key.float(), value=ones)  # type: ignore[assignment]
            weights, _ = prefix_attention(module, query, key, torch.zeros_like(value), *rest, **options)
            parts.append(weights[..., : slot.length - start])
    finally:
        module.prefix_slot = slot  # type: ignore[assignment]
    return torch.cat(parts, dim=-1)


def _one_hot_values(slot: LayerStates, start: int) -> Float[Tensor, "rows kv_heads prefix head_dim"]:
    """Values that are 1 in channel 0 at position `start`, in channel 1 at the next one, and so on."""
    values = torch.zeros_like(slot.value, dtype=torch.float32)
    channel = torch.arange(min(values.shape[-1], slot.length - start), device=values.device)
    values[:, :, start + channel, channel] = 1.0
    return values


def _in_float32(argument: Any) -> Any:
    return argument.float() if isinstance(argument, Tensor) and argument.is_floating_point() else argument


AttentionInterface.register(_IMPLEMENTATION, _measured_attention)
AttentionMaskInterface.register(_IMPLEMENTATION, explicit_mask)
