"""Backbones of published shapes with random weights; time and memory do not depend on the weights.

In: the name of a shape, a device, a dtype. Out: a `Backbone`. Nothing is read from a hub or a folder.
"""

import copy
import functools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Gemma3TextConfig, GPT2Config, LlamaConfig, PreTrainedTokenizerFast

from ptl_prefix.backbones.attention_sites import has_native_bfloat16
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.source import EMBEDDED
from ptl_prefix.settings import defaults_of

_TOKENS: Mapping[str, Any] = {"bos_token_id": 0, "eos_token_id": 0, "use_cache": False}


def _gpt2(width: int, layers: int, heads: int, *, vocabulary: int = 50257, positions: int = 1024) -> GPT2Config:
    return GPT2Config(
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        vocab_size=vocabulary,
        n_positions=positions,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        **_TOKENS,
    )


def _llama(width: int, layers: int, heads: int, *, kv_heads: int, inner: int, vocabulary: int) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=vocabulary,
        tie_word_embeddings=True,
        **_TOKENS,
    )


def _llama_of(config: str) -> LlamaConfig:
    """The shape of a backbone in `conf/`."""
    known = vars(LlamaConfig())
    return LlamaConfig(**{key: value for key, value in defaults_of(config).items() if key in known}, **_TOKENS)


def _gemma_270m() -> Gemma3TextConfig:
    """Gemma 3's smallest shape: most of its weights are the embeddings of a large vocabulary."""
    return Gemma3TextConfig(
        hidden_size=640,
        intermediate_size=2048,
        num_hidden_layers=18,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=256,
        vocab_size=262_144,
        tie_word_embeddings=True,
        **_TOKENS,
    )


_DEPTHS = (1, 2, 4, 8, 12, 24)
_WIDTHS = (128, 256, 512, 768, 1024)


def depth_shape(layers: int) -> str:
    """The key of GPT-2's shape with another number of layers."""
    return f"gpt2_{layers}_layers"


def width_shape(width: int) -> str:
    """The key of GPT-2's shape with another width; a head is 64 wide."""
    return f"gpt2_{width}_wide"


SHAPES: Mapping[str, Callable[[], Any]] = {
    **{depth_shape(layers): partial(_gpt2, 768, layers, 12) for layers in _DEPTHS},
    **{width_shape(width): partial(_gpt2, width, 12, width // 64) for width in _WIDTHS},
    "tiny": lambda: _gpt2(256, 4, 4, vocabulary=8192, positions=512),
    "tiny_llama": lambda: _llama(256, 4, 4, kv_heads=2, inner=1024, vocabulary=8192),
    "gpt2": lambda: _gpt2(768, 12, 12),
    "smollm2": lambda: _llama(576, 30, 9, kv_heads=3, inner=1536, vocabulary=49152),
    "small_llama": lambda: _llama(512, 8, 8, kv_heads=2, inner=2048, vocabulary=32000),
    "gemma_270m": _gemma_270m,
    "gpt2_medium": lambda: _gpt2(1024, 24, 16),
    "llama_1b": lambda: _llama_of("backbone/llama_1b"),
}
"""The transformers config of each shape; `llama_1b` is LLaMA 3.2's, `small_llama` a quarter of it each way, `smollm2`
SmolLM2-135M's, `gemma_270m` that of Gemma 3 270M."""


def dtype_for(wanted: str, device: str = "cpu") -> str:
    """The name of a dtype; `auto` is bfloat16 if the device computes it natively, else float32."""
    if wanted != "auto":
        return wanted
    return "bfloat16" if has_native_bfloat16(torch.device(device)) else "float32"


def random_backbone(shape: str, *, device: str, dtype: str, is_own: bool = False) -> Backbone:
    """Create a backbone with random weights.

    Args:
        shape: A key of `SHAPES`.
        device: Device of the weights.
        dtype: Dtype of the weights.
        is_own: Whether the backbone has its own weights, which can be trained. Otherwise all backbones of a shape share
            one copy of the weights, so that many contenders fit in memory.
    """
    frozen = None if is_own else _frozen_model(shape, device, dtype)
    # The modules are copied, but the parameters are shared.
    model = (
        copy.deepcopy(frozen, {id(parameter): parameter for parameter in frozen.parameters()})
        if frozen is not None
        else _model(shape, device, dtype)
    )
    torch.manual_seed(0)  # random numbers drawn later do not depend on `is_own`
    return Backbone(
        model=model,
        tokenizer=PreTrainedTokenizerFast.from_pretrained(EMBEDDED / "tiny_gpt2"),  # never used
        name=shape,
        path=shape,
        base_mode="eval",
        fingerprints=None,
    )


@functools.cache
def _frozen_model(shape: str, device: str, dtype: str) -> Any:
    return _model(shape, device, dtype)


def _model(shape: str, device: str, dtype: str) -> Any:
    torch.manual_seed(0)
    # Created on its device and in its dtype, so that creating it does not determine the peak memory.
    with torch.device(device):
        return AutoModelForCausalLM.from_config(SHAPES[shape](), dtype=getattr(torch, dtype))
