"""Tiny backbones with quantised matrices, and the same with the numbers that those stand for.

Whoever asks for one without the library that makes it is skipped by name.
"""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.linear_sites import linear_sites
from ptl_prefix.backbones.quantization import quantised_modules
from ptl_prefix.backbones.spec import load_backbone

LIBRARIES = {"bitsandbytes_8bit": "bitsandbytes", "bitsandbytes_4bit": "bitsandbytes", "torchao_int8": "torchao"}
QUANTIZATIONS = tuple(LIBRARIES)
REFUSED = [("gpt2", "torchao_int8")]
PAIRS = [pair for pair in product(("gpt2", "llama", "bart", "t5"), QUANTIZATIONS) if pair not in REFUSED]
"""One family of each kind, with each quantization that it can have."""


def quantized(folder: Path, quantization: str, **settings: Any) -> Backbone:
    """A backbone of float32, fresh, with quantised matrices."""
    pytest.importorskip(LIBRARIES[quantization])
    return load_backbone(str(folder), quantization=quantization, **{"dtype": "float32", "device": "cpu", **settings})


@torch.no_grad()
def rounded(folder: Path, backbone: Backbone) -> Backbone:
    """The same backbone without quantization, whose matrices have the numbers that the quantised ones stand for."""
    assert backbone.quantization is not None
    packed = {id(module) for module in quantised_modules(backbone.model, backbone.quantization)}
    same = load_backbone(str(folder), dtype="float32", device="cpu")
    for site in linear_sites(same):
        module: nn.Module = backbone.model.get_submodule(site.path)
        if id(module) in packed:
            # What it makes of unit vectors is its matrix, however it is kept.
            matrix = module(torch.eye(site.width_in)) - (0 if module.bias is None else module.bias)
            weight: Any = site.module.weight
            weight.copy_(matrix if site.is_transposed else matrix.T)
    return same


def tensor_bytes(backbone: Backbone) -> int:
    """The bytes of all tensors that hold a model's parameters, scales included, by the libraries' own names."""
    total = 0
    for parameter in backbone.model.parameters():
        held: Any = parameter
        if hasattr(held, "qdata"):
            tensors = [held.qdata, held.scale]
        elif getattr(held, "quant_state", None) is not None:
            tensors = [held.data, held.quant_state.absmax, held.quant_state.code]
        elif getattr(held, "SCB", None) is not None:
            tensors = [held.data, held.SCB]
        else:
            tensors = [held.data]
        total += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return total
