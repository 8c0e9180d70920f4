"""GGUF files of tiny models, written as llama.cpp's converter writes them.

In: a model and its tokenizer, a path, and a float type or quantisation. Out: the file.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from support.tiny_backbones import TINY_CONFIGS, set_weights, tiny_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TEMPLATE = "{% for message in messages %}{{ message['role'] }} : {{ message['content'] }} {% endfor %}"
ARCHITECTURES = {"gemma2": "gemma2", "gemma3_text": "gemma3", "gpt2": "gpt2", "llama": "llama", "qwen2": "qwen2"}
ARCHITECTURES["qwen3"] = "qwen3"

# What a GGUF file cannot say: other windows than each sixth layer's in Gemma 3, and Qwen 2's.
_SAYABLE: dict[str, dict[str, Any]] = {
    "gemma3_text": {"num_hidden_layers": 7, "layer_types": None},
    "qwen2": {"use_sliding_window": False, "layer_types": None},
}


def tiny_model(family: str, **changes: Any) -> "PreTrainedModel":
    """The tiny model of a family, in float32, with settings that its GGUF file can say."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {**TINY_CONFIGS[family], **_SAYABLE.get(family, {}), **changes}
    config = AutoConfig.for_model(family, vocab_size=288, bos_token_id=0, eos_token_id=1, pad_token_id=2, **settings)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    set_weights(model, seed=0)
    return model.eval()  # type: ignore[no-any-return]


def save_tiny_gguf(
    path: Path,
    family: str = "llama",
    *,
    kind: str = "F32",
    settings: dict[str, Any] | None = None,
    factors: "np.ndarray | None" = None,
    **metadata: int | float | str,
) -> Path:
    """Write the GGUF file of a family's tiny model.

    Args:
        path: File to write.
        family: Family of the model.
        kind: Type of its matrices, as GGUF names it; vectors, and rows that do not fit a block, are float32.
        settings: Other settings of the model.
        factors: Divisors of the rotary frequencies; `None` writes none.
        metadata: Further metadata, with `__` for each dot of a key.
    """
    import gguf

    model = tiny_model(family, **settings or {})
    writer = gguf.GGUFWriter(path, ARCHITECTURES[family])
    _add_config(writer, model.config)
    _add_tokenizer(writer)
    for key, value in metadata.items():
        writer.kv_data[0].pop(key.replace("__", "."), None)
        add = {str: writer.add_string, float: writer.add_float32, int: writer.add_uint32}[type(value)]
        add(key.replace("__", "."), value)  # type: ignore[operator]
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", factors)
    for name, values in _tensors(model, ARCHITECTURES[family]):
        wanted = gguf.GGMLQuantizationType[kind]
        fits = values.ndim > 1 and values.shape[-1] % gguf.GGML_QUANT_SIZES[wanted][0] == 0
        used = wanted if fits else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quantize(values, used), raw_dtype=used)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_config(writer: Any, config: Any) -> None:
    writer.add_name("Tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    if config.model_type == "gpt2":
        writer.add_feed_forward_length(4 * config.n_embd)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_head_count_kv(config.num_key_value_heads)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    if config.model_type.startswith("gemma"):
        writer.add_sliding_window(config.sliding_window)
    if config.model_type == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)


def _add_tokenizer(writer: Any) -> None:
    import json

    tokenizer = tiny_tokenizer()
    written = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    padding = [f"<unused{index}>" for index in range(len(vocabulary), 288)]
    tokens = [token for token, _ in vocabulary] + padding
    writer.add_token_list(tokens)
    writer.add_token_types([3 if index < 3 else 5 if token in padding else 1 for index, token in enumerate(tokens)])
    writer.add_token_merges([" ".join(merge) for merge in written["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)


def _tensors(model: "PreTrainedModel", architecture: str) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors by llama.cpp's names, in its layout; tied ones once."""
    import gguf

    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(arch, model.config.num_hidden_layers)
    for name, parameter in model.named_parameters():
        values = parameter.detach().numpy()
        if architecture == "llama" and ".q_proj." in name:
            values = _permuted(values, model.config.num_attention_heads)
        if architecture == "llama" and ".k_proj." in name:
            values = _permuted(values, model.config.num_key_value_heads)
        if architecture == "gpt2" and values.ndim == 2 and ".h." in name:
            values = values.T
        if architecture.startswith("gemma") and name.endswith("norm.weight"):
            values = values + 1
        yield str(names.get_name(name, try_suffixes=(".weight", ".bias"))), np.ascontiguousarray(values)


def _permuted(values: np.ndarray, num_heads: int) -> np.ndarray:
    """Rows in llama.cpp's order: the two halves of a head's rotary positions alternate."""
    halves = values.reshape(num_heads, 2, values.shape[0] // num_heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)
