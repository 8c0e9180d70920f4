"""Prefixes outside the softmax are what their papers' equations say, in forwards that are written out, in float64.

The tensors are those of a bundle; the written-out models know neither slots nor attention functions.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from support.method_nodes import new_method
from support.toy_batches import random_ids, train
from support.written_out import Add, attention, bart, gpt2, llama
from torch import Tensor
from torch.testing import assert_close

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.backbones.spec import load_backbone
from ptl_prefix.methods.method import Method

EQUAL: Mapping[str, Any] = {"rtol": 1e-10, "atol": 1e-10}

GATED: tuple[str, dict[str, Any]] = ("gated_prefix", {"prefix_length": 4})
GATED_TOP: tuple[str, dict[str, Any]] = ("gated_prefix", {"prefix_length": 1, "layers": [2]})
PLUS: tuple[str, dict[str, Any]] = ("prefix_plus", {"feature_map": "elu"})
PLUS_BOTTOM: tuple[str, dict[str, Any]] = ("prefix_plus", {"feature_map": "gelu", "layers": [0]})
CASES = {
    "gated-gpt2": ("gpt2", *GATED),
    "gated-llama": ("llama", *GATED),
    "gated-bart": ("bart", *GATED),
    "gated_top-bart": ("bart", *GATED_TOP),
    "plus-llama": ("llama", *PLUS),
    "plus-bart": ("bart", *PLUS),
    "plus_bottom-gpt2": ("gpt2", *PLUS_BOTTOM),
    "plus_bottom-llama": ("llama", *PLUS_BOTTOM),
}
FAST = ("gated-llama", "gated-bart", "plus-llama")


@pytest.mark.parametrize(
    ("family", "name", "settings"),
    [pytest.param(*case, id=key, marks=[] if key in FAST else pytest.mark.slow) for key, case in CASES.items()],
)
@torch.no_grad()
def test_logits_are_those_of_the_equations(
    family: str, name: str, settings: dict[str, Any], tiny_folders: dict[str, Path]
) -> None:
    backbone = load_backbone(str(tiny_folders[family]), name=family, dtype="float32")
    method = new_method(name, **settings).attach(backbone)
    with torch.enable_grad():
        train(backbone, method, steps=5, lr=5e-2)
    backbone.model.double()
    method.double()

    logits, written_out = _both(backbone, method, _add(method, settings))

    assert_close(logits, written_out, **EQUAL)
    _, bare = _both(backbone, method, lambda site, layer, query: torch.zeros_like(query))
    assert (logits - bare).abs().max() > 1e-2


def _both(backbone: Backbone, method: Method, add: Add) -> tuple[Tensor, Tensor]:
    """The logits of one text, and those of the written-out model."""
    ids, written = (torch.tensor([random_ids(length, seed=length)]) for length in (12, 7))
    inputs, weights = ModelInputs(ids, torch.ones_like(ids)), backbone.model.state_dict()
    if not backbone.is_encoder_decoder:
        forward = gpt2 if backbone.family == "gpt2" else llama
        return backbone.logits(method.condition(inputs))[0], forward(backbone.config, weights, ids[0], add=add)
    inputs = inputs.replace(decoder_input_ids=written, decoder_attention_mask=torch.ones_like(written))
    logits = backbone.logits(method.condition(inputs))[0]
    return logits, bart(backbone.config, weights, ids[0], written[0], add=add)


def _add(method: Method, settings: Mapping[str, Any]) -> Add:
    """The second term of each equation, for the layers that have one."""
    _, tensors = method.export()
    layers: list[int] | None = settings.get("layers")

    def add(site: str, layer: int, query: Tensor) -> Tensor:
        if layers is not None and layer not in layers:
            return torch.zeros_like(query)
        own = {
            name.rpartition(".")[2]: tensor[layer if layers is None else layers.index(layer)]
            for name, tensor in tensors.items()
            if name.startswith(f"{site}.")
        }
        if method.kind == "gated_prefix":
            keys, values = (_for_queries(own[part], query) for part in ("keys", "values"))
            return own["gates"].tanh()[:, None, None] * attention(query, keys, values, is_causal=False)
        if settings["feature_map"] == "elu":
            features = torch.where(query > 0, query, query.exp() - 1)
        else:
            features = query * (1 + torch.erf(query / 2**0.5)) / 2
        return features @ _for_queries(own["matrices"], query)

    return add


def _for_queries(of_heads: Tensor, query: Tensor) -> Tensor:
    """What a head of keys has, for each query head of its group."""
    return of_heads.repeat_interleave(len(query) // len(of_heads), dim=0)


@pytest.mark.parametrize(("name", "settings"), [GATED, PLUS], ids=["gated", "plus"])
@torch.no_grad()
def test_before_training_the_logits_are_exactly_those_of_the_bare_backbone(
    name: str, settings: dict[str, Any], tiny_folders: dict[str, Path]
) -> None:
    backbone = load_backbone(str(tiny_folders["gpt2"]), name="gpt2", dtype="float32")
    ids = torch.tensor([random_ids(9, seed=1)])
    inputs = ModelInputs(ids, torch.ones_like(ids)).with_positions()
    bare = backbone.logits(inputs)

    method = new_method(name, **settings).attach(backbone)

    assert torch.equal(backbone.logits(method.condition(inputs)), bare)
    assert method.position_law == "unshifted"
