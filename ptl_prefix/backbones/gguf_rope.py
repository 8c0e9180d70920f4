"""The scaling of rotary positions in a GGUF file, which transformers does not read.

In: a header, and the file's factors for each frequency. Out: what a config's `rope_parameters` must hold, or the reason
why it cannot say the same.
"""

import math
from typing import Any

import torch
from gguf import GGMLQuantizationType
from jaxtyping import Float
from torch import Tensor

from ptl_prefix.backbones.gguf_header import GgufHeader

FACTORS = "rope_freqs.weight"
"""llama.cpp's tensor of the divisors of each frequency, which its converter computes for Llama 3.1 and later."""

# llama.cpp's file has the factors that follow from these, not the numbers; all of Meta's models have the same ones.
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
_UNSCALED = ("none", "")


def scaling_problem(header: GgufHeader) -> str | None:
    """Why the scaling of a header cannot be converted, as the end of a sentence; `None` if it can, or there is none."""
    kind = header.value("rope.scaling.type", "none")
    factor = header.value("rope.scaling.factor", 1.0)
    is_known = kind in _UNSCALED or (kind == "linear" and isinstance(factor, float) and math.isfinite(factor))
    factors = header.tensor(FACTORS)
    is_llama3 = factors is not None and header.architecture == "llama" and factors.kind == GGMLQuantizationType.F32
    if is_known and (factors is None or (is_llama3 and len(factors.shape) == 1)):
        return None
    return (
        f"scales its rotary positions in a way that is not converted ({kind!r}); use the model's folder in the Hugging "
        "Face format"
    )


def linear_scaling(header: GgufHeader) -> dict[str, Any]:
    """The linear scaling of a header as part of `rope_parameters`; empty if there is none."""
    if header.value("rope.scaling.type", "none") in _UNSCALED:
        return {}
    return {"rope_type": "linear", "factor": header.value("rope.scaling.factor", 1.0)}


def llama3_scaling(factors: Float[Tensor, " frequencies"], theta: float) -> dict[str, Any] | None:
    """The scaling of Llama 3.1 and later as part of `rope_parameters`.

    Args:
        factors: The file's divisors of each frequency.
        theta: Base of the frequencies.

    Returns:
        The scaling; `None` if the divisors are not those of such a scaling.
    """
    num = len(factors)
    wavelengths = 2 * math.pi * theta ** (torch.arange(num, dtype=torch.float64) / num)
    low, high, length = _LLAMA3.values()
    factor = float(factors.max())
    smooth = ((length / wavelengths - low) / (high - low)).clamp(0, 1)
    expected = 1 / ((1 - smooth) / factor + smooth)
    if not torch.allclose(factors.double(), expected, rtol=1e-4, atol=0):
        return None
    return {"rope_type": "llama3", "factor": factor, **_LLAMA3}
