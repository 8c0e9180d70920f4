"""A LLaMA with random weights, made in 4 bits: at no moment is there a matrix in more.

In: the settings of an architecture, as in `conf/backbone/llama_13b.yaml`, and a seed. Out: a `Backbone` as
`backbone.quantization=bitsandbytes_4bit` makes one, with fingerprints, so that bundles are exported for it and served
by it. The codes are drawn, not rounded from numbers: each 4-bit code is equally likely, and all blocks of a matrix have
one scale, with which the numbers that they stand for have LLaMA's initial standard deviation.
"""

from collections.abc import Iterator
from typing import Any

import bitsandbytes.functional
import bitsandbytes.nn
import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ptl_prefix.artifacts.fingerprint import fingerprint_files, fingerprint_tensors
from ptl_prefix.artifacts.manifest import Quantization
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.fingerprints import Fingerprints
from ptl_prefix.backbones.model_config import config_fingerprint
from ptl_prefix.backbones.model_folder import tokenizer_files
from ptl_prefix.backbones.model_loading import build_shape
from ptl_prefix.backbones.quantization import prepare_for_training, quantised_modules
from ptl_prefix.backbones.shape import LlamaShape, LlamaSpec
from ptl_prefix.backbones.source import EMBEDDED

_BLOCK = 64
_ROWS_AT_ONCE = 1024
_QUANTIZATION: Quantization = "bitsandbytes_4bit"
# Untyped.
_nn: Any = bitsandbytes.nn
_functional: Any = bitsandbytes.functional


def random_nf4_backbone(spec: LlamaSpec, *, seed: int) -> Backbone:
    """The backbone of an architecture, on the CPU.

    Args:
        spec: The architecture; its `quantization` is bitsandbytes_4bit.
        seed: Seed of the weights.
    """
    shape = spec._shape
    assert isinstance(shape, LlamaShape)
    assert spec.quantization == _QUANTIZATION
    config = shape.config
    model = build_shape(config, of=spec.name, dtype=spec.torch_dtype)
    _draw(model, np.random.Generator(np.random.SFC64(seed)))
    prepare_for_training(model, _QUANTIZATION)
    return Backbone(
        model=model,
        tokenizer=shape.tokenizer(),
        name=spec.name,
        path=spec.name,
        base_mode=spec.base_mode,
        gradient_checkpointing=spec.gradient_checkpointing,
        quantization=_QUANTIZATION,
        fingerprints=lambda: _fingerprints(model, config),
    )


def _draw(model: PreTrainedModel, generator: np.random.Generator) -> None:
    """Replace everything on the meta device by random weights, and norms by ones."""
    std, dtype = model.config.initializer_range, model.dtype
    packed = {id(module) for module in quantised_modules(model, _QUANTIZATION)}
    for path, module in list(model.named_modules()):
        if id(module) in packed:
            model.set_submodule(path, _linear(module, generator, std=std, dtype=dtype))
            continue
        for name, parameter in list(module.named_parameters(recurse=False)):
            is_matrix = parameter.dim() > 1
            numbers = torch.ones(parameter.shape, dtype=dtype)
            if is_matrix:
                _fill(numbers, generator, std)
            module.register_parameter(name, nn.Parameter(numbers, requires_grad=False))
    # Its buffers are constants, which were computed on the meta device as well.
    rotation: Any = model.get_submodule("model.rotary_emb")
    model.set_submodule("model.rotary_emb", type(rotation)(config=model.config))


def _linear(module: Any, generator: np.random.Generator, *, std: float, dtype: torch.dtype) -> Any:
    """A linear module whose matrix is random codes."""
    size = module.in_features * module.out_features
    assert size % _BLOCK == 0, "a matrix of LLaMA has whole blocks"
    with torch.device("meta"):
        linear: Any = _nn.Linear4bit(
            module.in_features, module.out_features, bias=False, compute_dtype=dtype, quant_type="nf4"
        )
    codes = torch.from_numpy(_bits(size // 2, generator))
    levels = _functional.get_4bit_type("nf4", device="cpu")
    scale = std / float(levels.square().mean().sqrt())
    state = _functional.QuantState(
        absmax=torch.full((size // _BLOCK,), scale),
        shape=torch.Size((module.out_features, module.in_features)),
        code=levels,
        blocksize=_BLOCK,
        quant_type="nf4",
        dtype=dtype,
    )
    linear.weight = _nn.Params4bit(
        codes[:, None],
        requires_grad=False,
        quant_state=state,
        blocksize=_BLOCK,
        compress_statistics=False,
        quant_type="nf4",
        bnb_quantized=True,
        module=linear,
    )
    return linear


def _bits(num_bytes: int, generator: np.random.Generator) -> Any:
    """Random bytes: eight at a time, ten times as fast as `Generator.bytes`."""
    words: Any = generator.bit_generator.random_raw(-(-num_bytes // 8))
    return words.view(np.uint8)[:num_bytes]


def _fill(matrix: Tensor, generator: np.random.Generator, std: float) -> None:
    """Draw a matrix, some rows at a time: drawn at once, it would be in memory in float32, too."""
    for rows in torch.split(matrix, _ROWS_AT_ONCE):
        rows.copy_(torch.from_numpy(generator.standard_normal(tuple(rows.shape), dtype=np.float32)) * std)


def _fingerprints(model: PreTrainedModel, config: Any) -> Fingerprints:
    tokenizer = fingerprint_files(tokenizer_files(EMBEDDED / "tiny_gpt2"))
    return Fingerprints(fingerprint_tensors(_stored(model)), tokenizer, config_fingerprint(config))


def _stored(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the model, codes and scales apart."""
    for name, parameter in model.named_parameters():
        yield name, parameter.data
        if (state := getattr(parameter, "quant_state", None)) is not None:
            yield f"{name}.absmax", state.absmax
