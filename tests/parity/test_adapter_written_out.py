"""Adapters in a model are what their papers' equations say, in forwards that are written out here.

Independent of hooks and of transformers' own forward: tensors from the model's and the adapter's files, and torch.
"""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from support.toy_batches import EQUAL, random_ids, train
from torch import Tensor
from torch.testing import assert_close

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.methods.adapter import Adapter

Adapt = Callable[[str, int, Tensor], Tensor]

CASES: list[dict[str, Any]] = [
    {"placement": "houlsby", "activation": "gelu"},
    {"placement": "houlsby", "activation": "tanh"},
    {"placement": "pfeiffer", "activation": "relu"},
    {"placement": "pfeiffer", "activation": "silu"},
]


@pytest.mark.parametrize("settings", CASES, ids=["-".join(case.values()) for case in CASES])
@torch.no_grad()
def test_logits_are_those_of_the_equations(backbone: Backbone, settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    method = Adapter(bottleneck_size=6, **settings).attach(backbone)
    with torch.enable_grad():
        train(backbone, method, steps=5)
    _, tensors = method.export()
    ids = torch.tensor([random_ids(12, seed=3)])

    adapted = backbone.logits(method.condition(ModelInputs(ids, torch.ones_like(ids))))

    weights = backbone.model.state_dict()
    forward = _gpt2 if backbone.family == "gpt2" else _llama
    expected = forward(backbone.config, weights, ids[0], _adapt(tensors, settings))
    assert_close(adapted[0], expected, **EQUAL)
    bare = forward(backbone.config, weights, ids[0], lambda kind, layer, hidden: hidden)
    assert (adapted[0] - bare).abs().max() > 0.1


def _adapt(tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Adapt:
    """h + W_up f(W_down h + b_down) + b_up, where the placement has an adapter."""
    f = {"gelu": F.gelu, "tanh": torch.tanh, "relu": F.relu, "silu": F.silu}[settings["activation"]]

    def adapt(kind: str, layer: int, hidden: Tensor) -> Tensor:
        if kind == "self" and settings["placement"] == "pfeiffer":
            return hidden
        name = f"decoder_{kind}.{layer}"
        narrow = f(hidden @ tensors[f"{name}.down.weight"].T + tensors[f"{name}.down.bias"])
        return hidden + narrow @ tensors[f"{name}.up.weight"].T + tensors[f"{name}.up.bias"]

    return adapt


def _attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal, over (heads, text, head_dim); out comes (text, heads x head_dim)."""
    scores = query @ key.transpose(1, 2) / query.shape[2] ** 0.5
    future = torch.ones_like(scores, dtype=torch.bool).triu(1)
    return (scores.masked_fill(future, -torch.inf).softmax(-1) @ value).transpose(0, 1).flatten(1)


def _gpt2(config: Any, w: Mapping[str, Tensor], ids: Tensor, adapt: Adapt) -> Tensor:
    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], config.layer_norm_epsilon)

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"] + w[f"{name}.bias"]

    def heads(x: Tensor) -> Tensor:
        return x.view(len(ids), config.n_head, -1).transpose(0, 1)

    x = w["transformer.wte.weight"][ids] + w["transformer.wpe.weight"][: len(ids)]
    for layer in range(config.n_layer):
        name = f"transformer.h.{layer}"
        query, key, value = linear(norm(x, f"{name}.ln_1"), f"{name}.attn.c_attn").chunk(3, dim=-1)
        attended = _attention(heads(query), heads(key), heads(value))
        x = x + adapt("self", layer, linear(attended, f"{name}.attn.c_proj"))
        wide = F.gelu(linear(norm(x, f"{name}.ln_2"), f"{name}.mlp.c_fc"), approximate="tanh")
        x = x + adapt("feed_forward", layer, linear(wide, f"{name}.mlp.c_proj"))
    return norm(x, "transformer.ln_f") @ w["transformer.wte.weight"].T


def _llama(config: Any, w: Mapping[str, Tensor], ids: Tensor, adapt: Adapt) -> Tensor:
    def norm(x: Tensor, name: str) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + config.rms_norm_eps).rsqrt() * w[f"{name}.weight"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T

    def heads(x: Tensor) -> Tensor:
        x = x.view(len(ids), -1, config.head_dim).transpose(0, 1)
        return x.repeat_interleave(config.num_attention_heads // len(x), dim=0)

    half = config.head_dim // 2
    angles = torch.arange(len(ids))[:, None] / 10_000.0 ** (torch.arange(half) / half)
    cos, sin = angles.cos(), angles.sin()

    def rotated(x: Tensor) -> Tensor:
        first, second = x[..., :half], x[..., half:]
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    x = w["model.embed_tokens.weight"][ids]
    for layer in range(config.num_hidden_layers):
        name = f"model.layers.{layer}"
        h = norm(x, f"{name}.input_layernorm")
        query, key, value = (heads(linear(h, f"{name}.self_attn.{part}_proj")) for part in "qkv")
        attended = _attention(rotated(query), rotated(key), value)
        x = x + adapt("self", layer, linear(attended, f"{name}.self_attn.o_proj"))
        h = norm(x, f"{name}.post_attention_layernorm")
        wide = F.silu(linear(h, f"{name}.mlp.gate_proj")) * linear(h, f"{name}.mlp.up_proj")
        x = x + adapt("feed_forward", layer, linear(wide, f"{name}.mlp.down_proj"))
    return norm(x, "model.norm") @ w["lm_head.weight"].T
