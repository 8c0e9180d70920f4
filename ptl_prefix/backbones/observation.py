"""The backbone's own keys and values of a text, from which a prefix is initialised or computed.

In: a backbone, and tokens or embeddings. Out: the keys and values that each attention module computes for them, after
the rotary embedding if there is one.
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from ptl_prefix.backbones.attention_sites import attention_modules
from ptl_prefix.backbones.backbone import NO_POSITIONS, Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.backbones.prefix_attention import explicit_mask, plain_attention

_IMPLEMENTATION = "observed_attention"
_SAMPLE_ROWS, _SAMPLE_TOKENS = 8, 64


def _observed_attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
    module.observed = (key, value)  # type: ignore[assignment]
    return plain_attention(module, query, key, value, *args, **kwargs)


AttentionInterface.register(_IMPLEMENTATION, _observed_attention)
AttentionMaskInterface.register(_IMPLEMENTATION, explicit_mask)


@torch.no_grad()
def observed_keys_values(backbone: Backbone, inputs: ModelInputs) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """The keys and values of every layer, by site, each (batch, kv_heads, text, head_dim)."""
    with attention_replaced_by(backbone, _IMPLEMENTATION, attribute="observed") as sites:
        backbone.target_logits(inputs, NO_POSITIONS)
        return {site: [module.observed for module in modules] for site, modules in sites.items()}  # type: ignore[misc]


def keys_values_of_embeddings(
    backbone: Backbone, embeddings: Float[Tensor, "text width"]
) -> Float[Tensor, "layers two kv_heads text head_dim"]:
    """The keys and values of a decoder-only backbone for embeddings in place of tokens, at positions from 0.

    Args:
        backbone: A decoder-only backbone; a prefix in its slots has no effect.
        embeddings: The embeddings, as the first layer receives them.

    Returns:
        Keys and values in float32; gradients reach the embeddings.
    """
    with attention_replaced_by(backbone, _IMPLEMENTATION, attribute="observed") as sites:
        # The base model, because no logits are needed.
        base = getattr(backbone.model, backbone.model.base_model_prefix)
        rows = embeddings[None].to(backbone.device, backbone.dtype)
        text = torch.ones(1, rows.shape[1], dtype=torch.long, device=rows.device)
        # Without a mask transformers would look for packed texts in the position ids.
        base(inputs_embeds=rows, attention_mask=text, position_ids=text.cumsum(1) - 1, use_cache=False)
        observed: list[tuple[Tensor, Tensor]] = [module.observed for module in sites["decoder_self"]]  # type: ignore[misc]
    return torch.stack([torch.cat(pair) for pair in observed]).float()


def text_for_every_site(backbone: Backbone, ids: Int[Tensor, "batch text"]) -> ModelInputs:
    """Inputs with a text that every attention site sees: in an encoder-decoder it is both source and target."""
    inputs = ModelInputs(ids, torch.ones_like(ids))
    if backbone.is_encoder_decoder:
        inputs = inputs.replace(decoder_input_ids=ids, decoder_attention_mask=torch.ones_like(ids))
    return inputs.to(backbone.device)


def observed_text(
    backbone: Backbone, ids: Sequence[int]
) -> dict[str, Float[Tensor, "layers two kv_heads text head_dim"]]:
    """The keys and values of one text, by site, in float32."""
    observed = observed_keys_values(backbone, text_for_every_site(backbone, torch.tensor([list(ids)])))
    return {site: torch.stack([torch.cat(pair) for pair in layers]).float() for site, layers in observed.items()}


def observed_stds(backbone: Backbone) -> dict[str, Tensor]:
    """Standard deviations of a backbone's own keys and values over random tokens, by site.

    The tokens are drawn uniformly from the vocabulary with a fixed seed.

    Returns:
        For each site the standard deviation of a channel over rows and positions, as root mean square over heads and
        channels: float32, (layers, 2, 1, 1, 1), keys first. The mean over tokens, often most of a key's norm, is not
        part of it.
    """
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(backbone.config.vocab_size, (_SAMPLE_ROWS, _SAMPLE_TOKENS), generator=generator)
    stds = {}
    for site, layers in observed_keys_values(backbone, text_for_every_site(backbone, ids)).items():
        # (layers, 2, batch, kv_heads, text, head_dim)
        numbers = torch.stack([torch.stack(pair) for pair in layers]).float()
        stds[site] = numbers.var(dim=(2, 4)).mean(dim=(2, 3)).sqrt()[:, :, None, None, None]
    return stds


@contextmanager
def attention_replaced_by(
    backbone: Backbone, implementation: str, *, attribute: str
) -> Iterator[dict[str, tuple[nn.Module, ...]]]:
    """Inside, all attention modules run another registered function, in eval mode.

    Args:
        backbone: The backbone; its own attention and mode are restored at the end.
        implementation: Registered name of the function.
        attribute: Attribute of the modules in which the function stores its result; deleted at the end.

    Yields:
        The attention modules, by site.
    """
    original, mode = backbone.config._attn_implementation, backbone.model.training
    backbone.model.set_attn_implementation(implementation)
    backbone.model.eval()
    sites = attention_modules(backbone.model, backbone.config)
    try:
        with backbone.without_checkpointing():  # a recomputed forward pass would run the original function
            yield sites
    finally:
        backbone.model.set_attn_implementation(original)
        backbone.model.train(mode)
        for module in itertools.chain(*sites.values()):
            vars(module).pop(attribute, None)
