"""The values of a model's config: which are possible, and which a forward pass depends on.

In: the values of a config.json, or a transformers config. Out: what is wrong with the values, found before anything of
their size is allocated; and their fingerprint.
"""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from ptl_prefix.artifacts.fingerprint import fingerprint_text

_LARGEST: Mapping[str, int] = {
    **dict.fromkeys(
        ("num_hidden_layers", "n_layer", "encoder_layers", "decoder_layers", "num_layers", "num_decoder_layers"), 1024
    ),
    **dict.fromkeys(
        ("num_attention_heads", "n_head", "encoder_attention_heads", "decoder_attention_heads", "num_heads"), 2**14
    ),
    **dict.fromkeys(("num_key_value_heads", "head_dim", "d_kv"), 2**14),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim"), 2**18),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "d_ff", "encoder_ffn_dim", "decoder_ffn_dim"), 2**22),
    **dict.fromkeys(("vocab_size", "relative_attention_num_buckets", "relative_attention_max_distance"), 2**24),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "sliding_window"), 2**31),
    "num_labels": 2**16,  # transformers makes a dictionary of so many names
}
"""The largest value of each size: far above every model there is, and small enough to be built without its weights."""

_TEXT: Mapping[str, str] = {"model_type": "the name of a model family"}
_MAX_NUMBER = 2**53

_BOOKKEEPING = (
    "_name_or_path",
    "name_or_path",
    "transformers_version",
    "transformers_weights",
    "architectures",
    "auto_map",
    "dtype",
    "torch_dtype",
    "use_cache",
    "return_dict",
    "output_attentions",
    "output_hidden_states",
    "attn_implementation",
    "experts_implementation",
    "id2label",
    "label2id",
    "num_labels",
    "problem_type",
    "task_specific_params",
    "chunk_size_feed_forward",
    "gradient_checkpointing",
    "pretraining_tp",
    "init_std",
    "initializer_range",
    "initializer_factor",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "sep_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
)
_BOOKKEEPING_PARTS = ("dropout", "pdrop", "layerdrop", "summary_", "classifier_")
"""Keys, and parts of keys, that no logit of a frozen backbone depends on."""


def value_problem(values: Mapping[str, Any]) -> str | None:
    """The first value of a config.json that no model can have, as a sentence; `None` if there is none."""
    for path, key, value in _leaves(values):
        if law := _broken_law(key, value):
            return f"A model's config.json must have {law} as `{path}`, but has {value!r:.80}; get the file again."
    return None


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str, Any]]:
    """All values that are no objects or lists, or are in the place of a size, with their paths and keys."""
    for key, value in values.items():
        if key in _LARGEST:
            yield f"{prefix}{key}", key, value
        elif isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            yield from ((f"{prefix}{key}.{index}", "", part) for index, part in enumerate(value))
        else:
            yield f"{prefix}{key}", key, value


def _broken_law(key: str, value: Any) -> str | None:
    """What a value must be and is not."""
    if key in _TEXT:
        return None if isinstance(value, str) else _TEXT[key]
    if key in _LARGEST:
        whole = isinstance(value, int) and not isinstance(value, bool)
        # Some sizes may be absent; whether this one may, transformers knows.
        is_possible = value is None or (whole and 1 <= value <= _LARGEST[key])
        return None if is_possible else f"an integer from 1 to {_LARGEST[key]}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not math.isfinite(value) or abs(value) > _MAX_NUMBER:
        return "a finite number"
    if key.endswith(("eps", "epsilon")) and not 0 < value < 1:
        return "a number between 0 and 1"
    if ("dropout" in key or "pdrop" in key) and not 0 <= value < 1:
        return "a number from 0 to below 1"
    if key == "rope_theta" and not value > 0:
        return "a positive number"
    return None


def config_fingerprint(config: Any) -> str:
    """The hash of what a forward pass depends on in a transformers config, such as activation, epsilon and scaling.

    Values that are the defaults of the config's class are left out, so that a field that a later version of
    transformers adds does not change the hash.
    """
    defaults = type(config)().to_dict()
    relevant = {
        key: value
        for key, value in config.to_dict().items()
        if not _is_bookkeeping(key) and (key not in defaults or value != defaults[key])
    }
    return fingerprint_text(str(config.model_type), json.dumps(relevant, sort_keys=True, default=str))


def _is_bookkeeping(key: str) -> bool:
    return key.startswith("_") or key in _BOOKKEEPING or any(part in key for part in _BOOKKEEPING_PARTS)
