"""Builds a model from a config and named tensors.

In: a transformers config, and the tensors of a model folder, or their shapes alone. Out: the model; or `BackboneError`
if a tensor is missing, left over or of another shape. Weights that transformers would initialise at random or leave
unused, with a warning, are refused; nothing but the given tensors is loaded, such as an adapter beside them.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING, PreTrainedModel
from transformers.utils import logging as transformers_logging

from ptl_prefix.errors import BackboneError

_CONSTANTS = re.compile(r"(^|\.)(attn|attention)\.(masked_)?bias$|(^|\.)rotary_emb\.inv_freq$|(^|\.)version$")
"""Tensors that old versions of transformers stored although they are constants of the architecture."""


def build_model(
    config: Any, tensors: Mapping[str, Any], *, of: str, dtype: torch.dtype, **options: Any
) -> PreTrainedModel:
    """The model of a config with the given weights.

    Args:
        config: The transformers config; it stays as it is.
        tensors: Tensors by name, or slices of safetensors.
        of: Path of the model.
        dtype: Dtype of the weights in memory.
        options: Other arguments of `from_pretrained`.

    Raises:
        BackboneError: When the tensors are not those of the config's model.
    """
    with _refusing(of), without_progress_bar(), without_report():
        kind = _model_class(config)
        loaded: Any = kind.from_pretrained(
            None,
            config=config,
            state_dict=dict(tensors),
            dtype=dtype,
            attn_implementation=_attention(kind),
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options,
        )
    model, found = loaded
    if problem := _fit_problem(found, of):
        raise BackboneError(problem)
    return model  # type: ignore[no-any-return]


def build_shape(config: Any, *, of: str, dtype: torch.dtype) -> PreTrainedModel:
    """The model of a config on the meta device, without weights.

    Raises:
        BackboneError: When no model can be built from the config.
    """
    with _refusing(of), torch.device("meta"):
        kind = _model_class(config)
        model: PreTrainedModel = kind._from_config(config, dtype=dtype, attn_implementation=_attention(kind))
    return model


def _model_class(config: Any) -> Any:
    """The class of transformers that builds the model of a config, with its LM head."""
    kinds: Any = MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING if config.is_encoder_decoder else MODEL_FOR_CAUSAL_LM_MAPPING
    return kinds[type(config)]


def _attention(kind: Any) -> str:
    """The attention of the bare model: the same one on every machine, whatever its config asks for."""
    return "sdpa" if kind._supports_sdpa else "eager"


def _fit_problem(found: Mapping[str, Any], of: str) -> str | None:
    """The first way in which the tensors are not those of the model, as a sentence; `None` if they are."""
    missing = sorted(found["missing_keys"])
    left_over = sorted(name for name in found["unexpected_keys"] if not _CONSTANTS.search(name))
    other = sorted(found["mismatched_keys"], key=str)
    if missing:
        return (
            f"A backbone must have all its weights, but '{of}' lacks {len(missing)} tensors, {missing[0]} among them; "
            "get the whole model again."
        )
    if left_over:
        return (
            f"A backbone's weights must all belong to its layers, but '{of}' holds {len(left_over)} tensors that no "
            f"layer of its config.json takes, {left_over[0]} among them; use the config.json that belongs to them."
        )
    if other:
        name, stored, wanted = other[0]
        return (
            f"A backbone's weights must have the shapes of its config.json, but '{of}' could not be loaded: {name} is "
            f"{list(stored)} there, and {list(wanted)} by the config; use the config.json that belongs to them."
        )
    return None


@contextmanager
def _refusing(of: str) -> Iterator[None]:
    """Turn what transformers raises about a config or its tensors, which may be anything, into a `BackboneError`."""
    try:
        yield
    except BackboneError:
        raise
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise BackboneError(
            f"A backbone must be a model that its config.json describes, but '{of}' could not be loaded: "
            f"{first_line(error)}"
        ) from error


def first_line(error: Exception) -> str:
    """What an error of a library says, in one line."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


@contextmanager
def without_report() -> Iterator[None]:
    """Inside, transformers logs no table of tensors: a problem is raised in one sentence instead."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


@contextmanager
def without_progress_bar() -> Iterator[None]:
    """Inside, transformers shows no progress bar for reading and writing weights."""
    was_on = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            transformers_logging.enable_progress_bar()
