"""Converts a GGUF file to a model folder in the Hugging Face format, through transformers.

In: the parts of a file, its header, and the folder to make. Out: the folder, whole or not at all, with dequantised
weights, config, tokenizer and chat template; one process converts while others wait. What transformers would leave out
or guess is corrected from the header, or the file is refused.
"""

import contextlib
import errno
import io
import json
import math
import os
import shutil
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GgufConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from ptl_prefix.artifacts.atomic import storage_errors, write_folder_atomically
from ptl_prefix.artifacts.file_lock import FileLock
from ptl_prefix.artifacts.visible_text import escape_controls
from ptl_prefix.backbones.gguf_header import GgufArray, GgufHeader, pieces_of
from ptl_prefix.backbones.gguf_rope import FACTORS, linear_scaling, llama3_scaling, scaling_problem
from ptl_prefix.backbones.model_config import value_problem
from ptl_prefix.backbones.model_folder import system_errors
from ptl_prefix.backbones.model_loading import build_shape, first_line, without_progress_bar, without_report
from ptl_prefix.backbones.source import PretrainedFiles
from ptl_prefix.errors import BackboneError, StorageError

ARCHITECTURES: Mapping[str, str] = {
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
    "gpt2": "gpt2",
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
}
"""The architectures that are converted, by llama.cpp's names, and the family of each. Mistral's files are `llama`."""

_SIZES: Mapping[str, str] = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "attention.head_count": "num_attention_heads",
}
"""Sizes that each header must state, and what a config calls them."""

_HEADER_FILE, _WEIGHTS_FILE = "header.gguf", "weights.gguf"
_BYTES_PER_MINUTE = 500e6
"""Bytes of a converted folder per minute: half of what one core was measured to do, see `LOG.md`."""


def model_problem(header: GgufHeader) -> str | None:
    """Why a file of this header cannot be converted, as the end of a sentence about it; `None` if it can."""
    architecture = header.architecture
    if architecture not in ARCHITECTURES:
        offered = ", ".join(sorted(ARCHITECTURES))
        return f"is of the architecture {architecture!r}; those that are converted are: {offered}"
    num_parts = header.metadata.get("split.count", 1)
    if num_parts not in (0, 1):
        return f"is one of {num_parts!r} parts; join them with llama.cpp's `llama-gguf-split --merge`"
    for key, name in _SIZES.items():
        if value_problem({name: header.value(key, 0)}):
            return f"states the impossible value {header.value(key)!r:.40} as `{architecture}.{key}`; get it again"
    if header.value("expert_count", 0):
        return "is a mixture of experts, which is no supported family; use a dense model"
    if problem := scaling_problem(header):
        return problem
    if not isinstance(header.metadata.get("tokenizer.ggml.tokens"), GgufArray):
        return "has no tokenizer; use a file with one"
    return None


def convert(parts: Sequence[Path], header: GgufHeader, folder: Path, *, of: str) -> None:
    """Make the model folder of a GGUF file, unless another process makes it first.

    Args:
        parts: The file, or its parts in order.
        header: Its header, which has no `model_problem`.
        folder: Folder to make, which is named after the file's content.
        of: Path of the file as the user gave it.

    Raises:
        BackboneError: When the file cannot be converted.
        StorageError: When the disk does not take the folder.
    """
    with storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock"), required=False):
            if folder.is_dir():
                return
            _announce(header, folder, of)
            with _refusing(of, folder), write_folder_atomically(folder) as temporary:
                _write_model(parts, header, temporary, of)


def _announce(header: GgufHeader, folder: Path, of: str) -> None:
    """Say what is done, where and for how long, after the disk was asked for the space."""
    num_bytes = header.num_elements * header.dtype.itemsize
    if shutil.disk_usage(folder.parent).free < num_bytes + header.num_bytes:
        raise StorageError(folder, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), num_bytes + header.num_bytes)
    minutes = math.ceil(num_bytes / _BYTES_PER_MINUTE)
    text = (
        f"Converting {of} once, to a model folder of {num_bytes / 1e6:,.0f} MB in {folder}; this takes about "
        f"{minutes} min."
    )
    print(escape_controls(text), file=sys.stderr, flush=True)


@contextmanager
def _refusing(of: str, folder: Path) -> Iterator[None]:
    """Turn what transformers raises about a file, which may hold anything, into a `BackboneError`."""
    try:
        with system_errors(folder):
            yield
    except (BackboneError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and StorageError.describes(error):
            raise
        raise BackboneError(
            f"`backbone.path` must be a GGUF file that transformers can read, but '{of}' could not be converted: "
            f"{first_line(error)}"
        ) from error


def _write_model(parts: Sequence[Path], header: GgufHeader, folder: Path, of: str) -> None:
    source = folder / "source"
    source.mkdir()
    _write_sources(parts, header, source)
    # transformers shows a bar of its own, which `without_progress_bar` does not reach.
    with without_progress_bar(), without_report(), contextlib.redirect_stderr(io.StringIO()):
        tokenizer = _tokenizer(source)
        config = _config(source, header, tokenizer)
        _scale_positions(config, header, _factors(parts, header))
        model = _model(source, config, header, of)
    shutil.rmtree(source)
    with without_progress_bar():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    if problems := PretrainedFiles(str(folder)).problems():
        raise BackboneError(" ".join(problems).replace(str(folder), of))


def _write_sources(parts: Sequence[Path], header: GgufHeader, folder: Path) -> None:
    """Write the file as transformers reads it in seconds: its header, and itself without the vocabulary.

    transformers reads the tokenizer from the first. From the second it reads config and weights, and would take a
    minute for the vocabulary of a small model, three times.
    """
    with parts[0].open("rb") as file:
        whole = file.read(header.table[1])
    (folder / _HEADER_FILE).write_bytes(whole)
    kept = {key: whole[slice(*span)] for key, span in header.entries.items() if not _is_vocabulary(header, key)}
    start = whole[:16] + struct.pack("<Q", len(kept)) + b"".join(kept.values()) + whole[slice(*header.table)]
    with (folder / _WEIGHTS_FILE).open("wb") as file:
        file.write(start + bytes(-len(start) % header.alignment))
        for piece in pieces_of(parts, skip=header.data_start):
            file.write(piece)


def _is_vocabulary(header: GgufHeader, key: str) -> bool:
    return key.startswith("tokenizer.") and isinstance(header.metadata[key], GgufArray)


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    # Not `AutoTokenizer`: the file says how its text is split, and a model's own class may say otherwise.
    tokenizer: PreTrainedTokenizerBase = PreTrainedTokenizerFast.from_pretrained(folder, gguf_file=_HEADER_FILE)
    tokenizer.name_or_path = ""
    for key in ("is_local", "local_files_only"):  # of this process, but saved with the tokenizer
        tokenizer.init_kwargs.pop(key, None)
    return tokenizer


def _config(folder: Path, header: GgufHeader, tokenizer: PreTrainedTokenizerBase) -> PretrainedConfig:
    """The config that transformers reads from the file, with what it leaves out."""
    config: PretrainedConfig = AutoConfig.from_pretrained(folder, gguf_file=_WEIGHTS_FILE)
    if problem := value_problem(json.loads(config.to_json_string(use_diff=False))):
        raise BackboneError(problem)
    for name, value in _left_out(header).items():
        if value is not None:
            setattr(config, name, value)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config, name, getattr(tokenizer, name))
    return config


def _left_out(header: GgufHeader) -> dict[str, Any]:
    """What transformers does not read from a header, by the config's names; `None` where the file says nothing."""
    embedding = header.tensor("token_embd.weight")
    sizes = {"vocab_size": None if embedding is None else embedding.shape[-1]}
    head_dim = header.value("attention.key_length")
    if header.architecture == "gpt2":
        return {**sizes, "n_positions": header.value("context_length"), "n_inner": header.value("feed_forward_length")}
    if header.architecture == "qwen3":
        return {**sizes, "head_dim": head_dim}
    if header.architecture not in ("gemma2", "gemma3"):
        return sizes
    # llama.cpp knows Gemma's 27B models, whose scores are scaled otherwise, by their number of layers.
    is_27b = header.value("block_count") == {"gemma2": 46, "gemma3": 62}[header.architecture]
    width = header.value("embedding_length") // header.value("attention.head_count")
    return {
        **sizes,
        "query_pre_attn_scalar": width if is_27b else head_dim,
        "attn_logit_softcapping": header.value("attn_logit_softcapping"),
        "final_logit_softcapping": header.value("final_logit_softcapping"),
    }


def _scale_positions(config: PretrainedConfig, header: GgufHeader, factors: Tensor | None) -> None:
    """Put the scaling of rotary positions into a config.

    Raises:
        BackboneError: When the config cannot say it.
    """
    if header.architecture == "gpt2":
        return
    # In Gemma 3 it is that of the layers without a window.
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    rope.update(linear_scaling(header))
    if factors is not None:
        scaling = llama3_scaling(factors, rope["rope_theta"])
        if scaling is None:
            raise BackboneError(f"{FACTORS} must hold the factors of Llama 3's scaling, but holds others")
        rope.update(scaling)


def _factors(parts: Sequence[Path], header: GgufHeader) -> Tensor | None:
    """The divisors of the rotary frequencies; `None` if the file has none."""
    found = header.tensor(FACTORS)
    if found is None:
        return None
    pieces = pieces_of(parts, skip=header.data_start + found.start)
    return torch.frombuffer(bytearray(next(pieces)[: found.num_bytes]), dtype=torch.float32)


def _model(folder: Path, config: PretrainedConfig, header: GgufHeader, of: str) -> PreTrainedModel:
    """The model with dequantised weights, all of which come from the file."""
    # Compared before memory is allocated; tensors that transformers has no place for are left out without a word.
    num_parameters = sum(parameter.numel() for parameter in build_shape(config, of=of, dtype=header.dtype).parameters())
    factors = header.tensor(FACTORS)
    num_weights = header.num_elements - (math.prod(factors.shape) if factors else 0)
    if num_weights != num_parameters:
        raise _unfit_error(config, f"has {num_weights:,} weights, not {num_parameters:,}", of)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        gguf_file=_WEIGHTS_FILE,
        config=config,
        dtype=header.dtype,
        quantization_config=GgufConfig(dequantize=True),
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    model, found = loaded
    if fact := _unfit(found):
        raise _unfit_error(config, fact, of)
    # Ordinary weights now, which transformers would refuse to save as GGUF's.
    model.hf_quantizer = None
    for name in ("quantization_config", "_model_name_or_path"):
        if hasattr(model.config, name):
            delattr(model.config, name)
    model.config.name_or_path = ""
    return model  # type: ignore[no-any-return]


def _unfit(found: Mapping[str, Any]) -> str | None:
    """What a file lacks of its model, as the end of a sentence; `None` if it is the model."""
    if other := sorted(found["mismatched_keys"], key=str):
        name, stored, wanted = other[0]
        return f"has {list(stored)} as the shape of {name}, not {list(wanted)}"
    missing = sorted(found["missing_keys"])
    return f"lacks {missing[0]}" if missing else None


def _unfit_error(config: PretrainedConfig, fact: str, of: str) -> BackboneError:
    return BackboneError(
        f"`backbone.path` must be a GGUF file whose tensors are those of a {config.model_type}, but '{of}' {fact}; use "
        "the model's folder in the Hugging Face format."
    )
