"""Quantisation of a frozen model's weight matrices: `backbone.quantization`.

In: the setting. Out: problems with it, the options with which transformers quantises weights while it loads them, and
the number of parameters and bytes of a quantised model. The matrices of the layers are quantised; embeddings, norms,
biases, the LM head and all trainable parameters are not.

`prepare_for_training` undoes optimisations for inference, through which no gradient would flow.
"""

import importlib
import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedModel, TorchAoConfig
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module

from ptl_prefix.artifacts.manifest import Quantization

_LIBRARIES = {"bitsandbytes_8bit": "bitsandbytes", "bitsandbytes_4bit": "bitsandbytes", "torchao_int8": "torchao"}
_NF4_BLOCK, _NF4_LEVELS = 64, 16
_DEVICES = ("cpu", "cuda")


def library_problems(quantization: Quantization) -> list[str]:
    """A problem if the quantisation's library is not installed."""
    library = _LIBRARIES[quantization]
    if importlib.util.find_spec(library) is not None:
        return []
    return [
        f"`backbone.quantization` must be of a library that is installed, but {quantization} needs {library}, which is "
        f"not; pip install 'ptl-prefix[{library}]'."
    ]


def model_problems(quantization: Quantization | None, config: Any, device: torch.device) -> list[str]:
    """Why a model cannot be quantised on a device.

    Args:
        quantization: The setting; `None` for no quantisation.
        config: The model's transformers config.
        device: Device of the model.
    """
    if getattr(config, "quantization_config", None) is not None:
        return [
            "`backbone.path` must hold weights that are not quantised yet, but its config.json has a "
            "`quantization_config`; give the original model, and set `backbone.quantization`."
        ]
    if quantization is None:
        return []
    problems = []
    if device.type not in _DEVICES:
        problems.append(
            f"`backbone.device` must be one of {', '.join(_DEVICES)} where weights are quantised, but is {device.type}."
        )
    if quantization == "torchao_int8" and config.model_type == "gpt2":
        problems.append(
            "`backbone.quantization` must support the backbone's weight matrices, but torchao passes over gpt2's, "
            "which are stored transposed; choose bitsandbytes_8bit or bitsandbytes_4bit."
        )
    return problems


def loading_options(quantization: Quantization, *, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Arguments of `from_pretrained`: weights are quantised one by one while they are loaded."""
    place: Any = torch.cuda.current_device() if device.type == "cuda" and device.index is None else device
    with _logging_disabled():
        importlib.import_module(_LIBRARIES[quantization])
        return {"quantization_config": _config(quantization, dtype), "device_map": {"": place}}


def _config(quantization: Quantization, dtype: torch.dtype) -> Any:
    # The constructors of transformers are not typed.
    bitsandbytes: Any = BitsAndBytesConfig
    if quantization == "bitsandbytes_8bit":
        return bitsandbytes(load_in_8bit=True)
    if quantization == "bitsandbytes_4bit":
        return bitsandbytes(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    # By name, because torchao is optional.
    weight_only: Any = importlib.import_module("torchao.quantization").Int8WeightOnlyConfig
    return TorchAoConfig(weight_only())


@contextmanager
def _logging_disabled() -> Iterator[None]:
    """Both libraries log kernels that are missing for this processor, which concerns speed only."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(before)


def quantised_modules(model: PreTrainedModel, quantization: Quantization) -> list[nn.Module]:
    """The modules whose matrices are quantised, or would be, for a model on the meta device."""
    kept = HfQuantizer.get_modules_to_not_convert(model, None, list(model._keep_in_fp32_modules or ()))
    # transformers matches names of modules for bitsandbytes and of parameters for torchao: T5's `wo` differs.
    end = ".weight" if quantization == "torchao_int8" else ""
    return [
        module
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and should_convert_module(f"{path}{end}", kept)
    ]


def sizes(model: PreTrainedModel, quantization: Quantization | None) -> tuple[int, int]:
    """Number of parameters of a model, and their memory in bytes; on the meta device, what they would take.

    Quantised matrices are counted by the shapes of their modules, because their tensors are packed.
    """
    modules = quantised_modules(model, quantization) if quantization else []
    packed = {id(module.weight) for module in modules}
    whole = [parameter for parameter in model.parameters() if id(parameter) not in packed]
    num_numbers = sum(parameter.numel() for parameter in whole)
    num_bytes = sum(parameter.numel() * parameter.element_size() for parameter in whole)
    for module in modules:
        width_in, width_out = _widths(module)
        num_numbers += width_in * width_out
        num_bytes += _packed_bytes(width_in, width_out, quantization, model.dtype)
    return num_numbers, num_bytes


def _widths(module: Any) -> tuple[int, int]:
    return (module.in_features, module.out_features) if isinstance(module, nn.Linear) else tuple(module.weight.shape)


def _packed_bytes(width_in: int, width_out: int, quantization: Quantization | None, dtype: torch.dtype) -> int:
    """Bytes of one quantised matrix: its numbers, and their scales."""
    numbers = width_in * width_out
    if quantization == "bitsandbytes_8bit":
        return numbers + 4 * width_out
    if quantization == "bitsandbytes_4bit":
        return -(-numbers // 2) + 4 * -(-numbers // _NF4_BLOCK) + 4 * _NF4_LEVELS
    return numbers + dtype.itemsize * width_out


def prepare_for_training(model: PreTrainedModel, quantization: Quantization) -> None:
    """Change a quantised model, in place, so that gradients flow through it and no dequantised copy is kept."""
    for module in quantised_modules(model, quantization):
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # With AVX512-BF16 the first forward without gradients would repack a 4-bit matrix for a kernel that has
            # no backward pass.
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
        elif type(module) is nn.Linear:
            module.__class__ = _RecomputedLinear


class _RecomputedLinear(nn.Linear):
    """A linear module with a quantised weight that is dequantised again in the backward pass.

    torchao multiplies by a dequantised copy, which autograd would keep for every matrix of the model.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = _FrozenLinear.apply(inputs, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return outputs


class _FrozenLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        return nn.functional.linear(inputs, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        return gradient @ ctx.weight.dequantize().to(gradient.dtype), None, None
