"""What a backbone's own keys and values look like, so that a prefix can start among them.

In: a backbone and some tokens. Out: the keys and values that each attention module computes for them, as attention
    sees them.
"""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ptl_prefix.backbones.attention_sites import attention_modules
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs

_IMPLEMENTATION = "observed_sdpa"
_SAMPLE_ROWS, _SAMPLE_TOKENS = 8, 64


def _observed_attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
    module.observed = (key, value)  # type: ignore[assignment]
    return sdpa_attention_forward(module, query, key, value, *args, **kwargs)


AttentionInterface.register(_IMPLEMENTATION, _observed_attention)
AttentionMaskInterface.register(_IMPLEMENTATION, sdpa_mask)


@torch.no_grad()
def observed_keys_values(backbone: Backbone, inputs: ModelInputs) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """The keys and values of every layer at every site, each (batch, kv_heads, text, head_dim)."""
    usual, mode = backbone.config._attn_implementation, backbone.model.training
    backbone.model.set_attn_implementation(_IMPLEMENTATION)
    backbone.model.eval()
    seen: dict[str, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    try:
        backbone.logits(inputs)
        for site, modules in attention_modules(backbone.model, backbone.config).items():
            for module in modules:
                seen[site].append(module.observed)  # type: ignore[arg-type]
                del module.observed
    finally:
        backbone.model.set_attn_implementation(usual)
        backbone.model.train(mode)
    return dict(seen)


def observed_scales(backbone: Backbone) -> dict[str, Tensor]:
    """How large a backbone's own keys and values are over a sample of tokens, at every site.

    The tokens are drawn evenly from the vocabulary with a fixed seed.

    Returns: For each site the root mean square over rows, heads, positions and channels: float32, (layers, 2, 1, 1,
        1), keys first.
    """
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(backbone.config.vocab_size, (_SAMPLE_ROWS, _SAMPLE_TOKENS), generator=generator)
    sample = ModelInputs(ids, torch.ones_like(ids)).to(backbone.device)
    scales = {}
    for site, layers in observed_keys_values(backbone, sample).items():
        # (layers, 2, batch, kv_heads, text, head_dim)
        numbers = torch.stack([torch.stack(pair) for pair in layers]).float()
        scales[site] = numbers.square().mean(dim=(2, 3, 4, 5)).sqrt()[:, :, None, None, None]
    return scales
