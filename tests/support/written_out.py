"""Whole models as plain arithmetic: independent of hooks, of attention functions, and of transformers' own forward.

In: a model's config and weights, the ids of one text, and what a method changes. Out: its logits, (text, vocabulary).
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import Tensor

Adapt = Callable[[str, int, Tensor], Tensor]
"""Changes the output of a sublayer, `self` or `feed_forward`, of a layer."""
Add = Callable[[str, int, Tensor], Tensor]
"""What is added to a site's attention in a layer, of its queries: (heads, text, head_dim), in and out."""


def unchanged(kind: str, layer: int, hidden: Tensor) -> Tensor:
    """No adapter."""
    return hidden


def nothing(site: str, layer: int, query: Tensor) -> Tensor:
    """No addition."""
    return torch.zeros_like(query)


def attention(query: Tensor, key: Tensor, value: Tensor, *, is_causal: bool = True) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V, over (heads, text, head_dim)."""
    scores = query @ key.transpose(1, 2) / query.shape[2] ** 0.5
    if is_causal:
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)
    return scores.softmax(-1) @ value


def gpt2(config: Any, w: Mapping[str, Tensor], ids: Tensor, *, adapt: Adapt = unchanged, add: Add = nothing) -> Tensor:
    """GPT-2."""

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], config.layer_norm_epsilon)

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"] + w[f"{name}.bias"]

    x = w["transformer.wte.weight"][ids] + w["transformer.wpe.weight"][: len(ids)]
    for layer in range(config.n_layer):
        name = f"transformer.h.{layer}"
        parts = linear(norm(x, f"{name}.ln_1"), f"{name}.attn.c_attn").chunk(3, dim=-1)
        query, key, value = (_heads(part, config.n_head) for part in parts)
        attended = attention(query, key, value) + add("decoder_self", layer, query)
        x = x + adapt("self", layer, linear(_joined(attended), f"{name}.attn.c_proj"))
        wide = F.gelu(linear(norm(x, f"{name}.ln_2"), f"{name}.mlp.c_fc"), approximate="tanh")
        x = x + adapt("feed_forward", layer, linear(wide, f"{name}.mlp.c_proj"))
    return norm(x, "transformer.ln_f") @ w["transformer.wte.weight"].T


def llama(config: Any, w: Mapping[str, Tensor], ids: Tensor, *, adapt: Adapt = unchanged, add: Add = nothing) -> Tensor:
    """LLaMA, with grouped-query attention."""

    def norm(x: Tensor, name: str) -> Tensor:
        single = x.float()  # also for weights in float64, as transformers does
        normed = single * torch.rsqrt(single.square().mean(-1, keepdim=True) + config.rms_norm_eps)
        return normed.to(x.dtype) * w[f"{name}.weight"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T

    def heads(x: Tensor) -> Tensor:
        x = x.view(len(ids), -1, config.head_dim).transpose(0, 1)
        return x.repeat_interleave(config.num_attention_heads // len(x), dim=0)

    half = config.head_dim // 2
    # In float32, also for weights in float64, as transformers has them.
    angles = torch.arange(len(ids))[:, None] * (1 / 10_000.0 ** (torch.arange(half) / half))
    cos, sin = angles.cos(), angles.sin()

    def rotated(x: Tensor) -> Tensor:
        first, second = x[..., :half], x[..., half:]
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    x = w["model.embed_tokens.weight"][ids]
    for layer in range(config.num_hidden_layers):
        name = f"model.layers.{layer}"
        h = norm(x, f"{name}.input_layernorm")
        query, key, value = (heads(linear(h, f"{name}.self_attn.{part}_proj")) for part in "qkv")
        attended = attention(rotated(query), rotated(key), value) + add("decoder_self", layer, rotated(query))
        x = x + adapt("self", layer, linear(_joined(attended), f"{name}.self_attn.o_proj"))
        h = norm(x, f"{name}.post_attention_layernorm")
        wide = F.silu(linear(h, f"{name}.mlp.gate_proj")) * linear(h, f"{name}.mlp.up_proj")
        x = x + adapt("feed_forward", layer, linear(wide, f"{name}.mlp.down_proj"))
    return norm(x, "model.norm") @ w["lm_head.weight"].T


def bart(config: Any, w: Mapping[str, Tensor], source: Tensor, ids: Tensor, *, add: Add = nothing) -> Tensor:
    """BART: an encoder that reads `source`, and a decoder that has written `ids`."""

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def embedded(text: Tensor, stack: str) -> Tensor:
        # The first two rows of the table are for no position.
        places = w[f"model.{stack}.embed_positions.weight"][2 : 2 + len(text)]
        return norm(w["model.shared.weight"][text] + places, f"model.{stack}.layernorm_embedding")

    def attended(x: Tensor, seen: Tensor, name: str, site: str, layer: int) -> Tensor:
        num_heads = getattr(config, f"{site.partition('_')[0]}_attention_heads")
        query = _heads(linear(x, f"{name}.q_proj"), num_heads)
        key, value = (_heads(linear(seen, f"{name}.{part}_proj"), num_heads) for part in "kv")
        output = attention(query, key, value, is_causal=site == "decoder_self") + add(site, layer, query)
        return norm(x + linear(_joined(output), f"{name}.out_proj"), f"{name}_layer_norm")

    def fed_forward(x: Tensor, name: str) -> Tensor:
        return norm(x + linear(F.gelu(linear(x, f"{name}.fc1")), f"{name}.fc2"), f"{name}.final_layer_norm")

    x = embedded(source, "encoder")
    for layer in range(config.encoder_layers):
        name = f"model.encoder.layers.{layer}"
        x = fed_forward(attended(x, x, f"{name}.self_attn", "encoder_self", layer), name)
    y = embedded(ids, "decoder")
    for layer in range(config.decoder_layers):
        name = f"model.decoder.layers.{layer}"
        y = attended(y, y, f"{name}.self_attn", "decoder_self", layer)
        y = fed_forward(attended(y, x, f"{name}.encoder_attn", "decoder_cross", layer), name)
    return y @ w["model.shared.weight"].T + w["final_logits_bias"][0]


def _heads(x: Tensor, num_heads: int) -> Tensor:
    return x.view(len(x), num_heads, -1).transpose(0, 1)


def _joined(heads: Tensor) -> Tensor:
    return heads.transpose(0, 1).flatten(1)
