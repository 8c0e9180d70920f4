"""A frozen model whose matrices are kept in fewer bits: `backbone.quantization`.

In: the setting's name. Out: what stands in its way, what transformers quantises weights with while it loads them, and
how many numbers and bytes a model has. Quantised are the matrices of the layers; embeddings, norms, biases and what
writes the logits stay as they are, and so does everything that is trained.

`for_training` undoes what the libraries do for the sake of inference alone, as nothing could be trained with it.
"""

import importlib
import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedModel, TorchAoConfig
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module

Quantization = Literal["bitsandbytes_8bit", "bitsandbytes_4bit", "torchao_int8"]
"""LLM.int8 (Dettmers et al., 2022); NF4 in blocks of 64 (Dettmers et al., 2023); int8 weights with a scale a row."""

_LIBRARIES = {"bitsandbytes_8bit": "bitsandbytes", "bitsandbytes_4bit": "bitsandbytes", "torchao_int8": "torchao"}
_NF4_BLOCK, _NF4_LEVELS = 64, 16
_DEVICES = ("cpu", "cuda")


def library_problems(quantization: Quantization) -> list[str]:
    """The library, if it is not installed."""
    library = _LIBRARIES[quantization]
    if importlib.util.find_spec(library) is not None:
        return []
    return [
        f"`backbone.quantization` must be by a library that is there, but {quantization} is by {library}, which is not "
        f"installed; pip install 'ptl-prefix[{library}]'."
    ]


def model_problems(quantization: Quantization | None, config: Any, device: torch.device) -> list[str]:
    """Models and devices that a quantization is not for.

    Args:
        quantization: The setting.
        config: The model's transformers config.
        device: Where it would be.
    """
    if getattr(config, "quantization_config", None) is not None:
        return [
            "`backbone.path` must hold weights that are not quantised yet, but its config.json has a "
            "`quantization_config`; give the model that it was made from, with `backbone.quantization`."
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
            "`backbone.quantization` must be able to hold the backbone's matrices, but torchao passes over gpt2's, "
            "which are kept transposed; choose bitsandbytes_8bit or bitsandbytes_4bit."
        )
    return problems


def loading_options(quantization: Quantization, *, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """What `from_pretrained` must be told: weights are quantised as they come, and never whole all at once."""
    place: Any = torch.cuda.current_device() if device.type == "cuda" and device.index is None else device
    with _quietly():
        importlib.import_module(_LIBRARIES[quantization])
        return {"quantization_config": _config(quantization, dtype), "device_map": {"": place}}


def _config(quantization: Quantization, dtype: torch.dtype) -> Any:
    # transformers' own classes say nothing of types.
    bitsandbytes: Any = BitsAndBytesConfig
    if quantization == "bitsandbytes_8bit":
        return bitsandbytes(load_in_8bit=True)
    if quantization == "bitsandbytes_4bit":
        return bitsandbytes(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    # By its path, as only who has torchao can import it.
    weight_only: Any = importlib.import_module("torchao.quantization").Int8WeightOnlyConfig
    return TorchAoConfig(weight_only())


@contextmanager
def _quietly() -> Iterator[None]:
    """Both libraries log what kernels they lack here, which changes nothing but speed."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(before)


def quantised_modules(model: PreTrainedModel, quantization: Quantization) -> list[nn.Module]:
    """The modules whose matrices are quantised, or would be, where the model is a sketch."""
    kept = HfQuantizer.get_modules_to_not_convert(model, None, list(model._keep_in_fp32_modules or ()))
    # transformers asks of modules for the one library and of matrices for the other: T5's `wo` differs.
    end = ".weight" if quantization == "torchao_int8" else ""
    return [
        module
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and should_convert_module(f"{path}{end}", kept)
    ]


def sizes(model: PreTrainedModel, quantization: Quantization | None) -> tuple[int, int]:
    """Numbers in a model's parameters, and the bytes that they take; of a sketch, that they would take.

    They are counted by their matrices' shapes, as packed numbers are not to be counted by their tensors.
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
    """Of one matrix: its numbers, and the scales beside them."""
    numbers = width_in * width_out
    if quantization == "bitsandbytes_8bit":
        return numbers + 4 * width_out
    if quantization == "bitsandbytes_4bit":
        return -(-numbers // 2) + 4 * -(-numbers // _NF4_BLOCK) + 4 * _NF4_LEVELS
    return numbers + dtype.itemsize * width_out


def for_training(model: PreTrainedModel, quantization: Quantization) -> None:
    """Make what was loaded one through which gradients flow, and that keeps no more than it must."""
    # It says at every multiplication that inputs become float16, which is how LLM.int8 works.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    for module in quantised_modules(model, quantization):
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # On such a processor the first forward without gradients packs a 4-bit matrix for a kernel that has none:
            # from then on nothing before it would learn.
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
        elif type(module) is nn.Linear:
            module.__class__ = _DequantizedAgain


class _DequantizedAgain(nn.Linear):
    """A linear module with a quantised matrix, of which nothing but that is kept for the backward.

    torchao multiplies by a copy in full precision, which autograd would keep, for each matrix of the model.
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
