"""What a backbone's own keys and values look like, so that a prefix can start among them, or be made of them.

In: a backbone and some tokens, or embeddings in their place. Out: the keys and values that each attention module
computes for them, as attention sees them.
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
    """The keys and values of every layer at every site, each (batch, kv_heads, text, head_dim)."""
    with attention_replaced_by(backbone, _IMPLEMENTATION, leaving="observed") as sites:
        backbone.target_logits(inputs, NO_POSITIONS)
        return {site: [module.observed for module in modules] for site, modules in sites.items()}  # type: ignore[misc]


def keys_values_of_embeddings(
    backbone: Backbone, embeddings: Float[Tensor, "text width"]
) -> Float[Tensor, "layers two kv_heads text head_dim"]:
    """What a decoder-only backbone's layers make of embeddings that stand where tokens would, from position 0 on.

    In float32; gradients reach the embeddings.
    """
    with attention_replaced_by(backbone, _IMPLEMENTATION, leaving="observed") as sites:
        # The base model: of the head's logits nothing is wanted.
        base = getattr(backbone.model, backbone.model.base_model_prefix)
        rows = embeddings[None].to(backbone.device, backbone.dtype)
        text = torch.ones(1, rows.shape[1], dtype=torch.long, device=rows.device)
        # Without a mask the library would look for several texts in the positions.
        base(inputs_embeds=rows, attention_mask=text, position_ids=text.cumsum(1) - 1, use_cache=False)
        observed: list[tuple[Tensor, Tensor]] = [module.observed for module in sites["decoder_self"]]  # type: ignore[misc]
    return torch.stack([torch.cat(pair) for pair in observed]).float()


def text_for_every_site(backbone: Backbone, ids: Int[Tensor, "batch text"]) -> ModelInputs:
    """A text that is read, and in an encoder-decoder also written, so that every site sees it."""
    inputs = ModelInputs(ids, torch.ones_like(ids))
    if backbone.is_encoder_decoder:
        inputs = inputs.replace(decoder_input_ids=ids, decoder_attention_mask=torch.ones_like(ids))
    return inputs.to(backbone.device)


def observed_text(
    backbone: Backbone, ids: Sequence[int]
) -> dict[str, Float[Tensor, "layers two kv_heads text head_dim"]]:
    """The keys and values of one text at every site, in float32."""
    observed = observed_keys_values(backbone, text_for_every_site(backbone, torch.tensor([list(ids)])))
    return {site: torch.stack([torch.cat(pair) for pair in layers]).float() for site, layers in observed.items()}


def observed_stds(backbone: Backbone) -> dict[str, Tensor]:
    """How far a backbone's own keys and values spread over a sample of tokens, at every site.

    The tokens are drawn evenly from the vocabulary with a fixed seed.

    Returns: For each site the standard deviation over rows and positions of each channel, as the root of its mean
        square over heads and channels: float32, (layers, 2, 1, 1, 1), keys first. What all tokens share, often most of
        a key's length, is left out.
    """
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(backbone.config.vocab_size, (_SAMPLE_ROWS, _SAMPLE_TOKENS), generator=generator)
    spreads = {}
    for site, layers in observed_keys_values(backbone, text_for_every_site(backbone, ids)).items():
        # (layers, 2, batch, kv_heads, text, head_dim)
        numbers = torch.stack([torch.stack(pair) for pair in layers]).float()
        spreads[site] = numbers.var(dim=(2, 4)).mean(dim=(2, 3)).sqrt()[:, :, None, None, None]
    return spreads


@contextmanager
def attention_replaced_by(
    backbone: Backbone, implementation: str, *, leaving: str
) -> Iterator[dict[str, tuple[nn.Module, ...]]]:
    """Every attention module runs a registered function for a while, without dropout.

    Args:
        backbone: Its own attention and mode come back at the end.
        implementation: The function's registered name.
        leaving: The attribute in which that leaves what it saw; gone at the end.

    Yields:
        The attention modules, by site.
    """
    usual, mode = backbone.config._attn_implementation, backbone.model.training
    backbone.model.set_attn_implementation(implementation)
    backbone.model.eval()
    sites = attention_modules(backbone.model, backbone.config)
    try:
        with backbone.without_checkpointing():  # the second forward would run another function
            yield sites
    finally:
        backbone.model.set_attn_implementation(usual)
        backbone.model.train(mode)
        for module in itertools.chain(*sites.values()):
            vars(module).pop(leaving, None)
