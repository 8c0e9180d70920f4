"""Adapters in a model are what their papers' equations say, in forwards that are written out here.

Independent of hooks and of transformers' own forward: tensors from the model's and the adapter's files, and torch.
"""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from support.toy_batches import EQUAL, random_ids, train
from support.written_out import Adapt, gpt2, llama
from torch import Tensor
from torch.testing import assert_close

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.methods.adapter import Adapter

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
    forward = gpt2 if backbone.family == "gpt2" else llama
    expected = forward(backbone.config, weights, ids[0], adapt=_adapt(tensors, settings))
    assert_close(adapted[0], expected, **EQUAL)
    bare = forward(backbone.config, weights, ids[0])
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
