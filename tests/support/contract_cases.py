"""Which methods and backbones the contracts bring together.

Contracts hold for every family; all variants of a method meet four families, of every kind, the others one. What a
method promises of itself alone is tested on one family of each kind. Of the methods, only prefix-tuning meets the
families in the fast tests, in its two plain ways, but for those that are kin of another family; the other methods meet
one of either kind there, or GPT-2 alone if they are kin of another method, and the rest in the slow ones.
"""

import re
from collections.abc import Mapping
from typing import Any

import pytest
from support.tiny_backbones import TINY_CONFIGS

from ptl_prefix.settings import conf_dir

VARIANTS: Mapping[str, list[dict[str, Any]]] = {
    "adapter": [{"bottleneck_size": 6}, {"bottleneck_size": 6, "placement": "pfeiffer", "activation": "relu"}],
    "document_prefix": [],  # prefix-tuning, with other defaults
    "gated_prefix": [
        {"prefix_length": 4},
        {"prefix_length": 3, "layers": [0, 2], "init": "text", "init_text": "the cat"},
    ],
    "peft": [
        {"peft_type": "vera", "settings": {"r": 4}},
        {"peft_type": "lokr", "settings": {"r": 16}},
        {"peft_type": "miss", "settings": {"r": 4}},
        {"peft_type": "oft", "settings": {"oft_block_size": 8}},
        {"peft_type": "randlora", "settings": {"r": 4}},
        {"peft_type": "shira", "settings": {"r": 2}},
    ],
    "prefix_lora": [{"parts": {"first": {"prefix_length": 4, "reparam_hidden_size": 16}}}],
    "prefix_tuning": [
        {"prefix_length": 4, "reparam": "none"},
        {"prefix_length": 4, "reparam": "mlp", "reparam_hidden_size": 16},
        {"prefix_length": 4, "reparam": "linear", "reparam_embedding_size": 3},
        {"prefix_length": 4, "reparam": "none", "layers": [0, 2], "position_law": "unshifted"},
        {"prefix_length": 4, "reparam": "none", "position_law": "infix"},
        {"prefix_length": 4, "reparam": "embedding"},
        {"prefix_length": 4, "reparam_hidden_size": 16, "init": "text", "init_text": "the cat", "frozen_sink": True},
        {"prefix_length": 4, "reparam_hidden_size": 16, "init": "attention_matching", "train_keys": False},
    ],
    "prefix_plus": [{"feature_map": "elu"}, {"feature_map": "gelu", "layers": [1]}],
    "prompt_tuning": [
        {"prompt_length": 4, "init": "vocabulary"},
        {"prompt_length": 4, "init": "text", "init_text": "the cat"},
    ],
}
"""Settings to test a method with, by its config's name; with its defaults alone where nothing is said."""


METHODS = [
    (path.stem, variant)
    for path in sorted((conf_dir() / "method").glob("*.yaml"))
    for variant in VARIANTS.get(path.stem, [{}])
]
"""The methods to test: the name of a config, and the settings that are changed."""


def label(name: str, variant: dict[str, Any]) -> str:
    return re.sub("[ {}']", "", "-".join([name, *(str(value) for value in variant.values())]))


_DECODER_ONLY, _ENCODER_DECODERS = ("gpt2", "llama"), ("bart", "t5")
_TESTED_ELSEWHERE = (
    "test_gradient_checkpointing_changes_no_gradient",
    "test_a_bfloat16_backbone_trains_float32_parameters_and_stays_unchanged",
)
_OF_THE_METHOD_ALONE = (
    "test_attaching_twice_is_refused",
    "test_using_a_method_before_it_is_attached_is_refused",
    "test_the_trained_state_survives_being_detached",
    "test_a_trained_state_moves_to_a_method_of_the_same_settings_and_to_no_other",
    "test_the_same_seed_gives_the_same_start",
    "test_what_is_stored_is_what_is_exported",
)
_KIN = ("dora", "ia3", "layer_norm", "peft", "rslora", "top_layers")
"""Methods that replace modules as `lora` does, or train weights as `full_finetuning` does."""
_OUTSIDE_THE_SOFTMAX = ("gated_prefix", "prefix_plus")
"""Methods whose one way stands for both in the fast tests, on GPT-2; their equations are tested in `parity`."""
_FAST_TUNER = "vera"
"""The tuner of `peft` that the fast tests run; the others differ from it in PEFT's code alone."""
_KIN_FAMILIES = ("gemma", "mbart", "mistral", "mt5", "qwen2")
"""Families whose attention is that of `gemma2`, `bart`, `llama`, `t5` and `qwen3`, as far as a prefix sees it."""
_PLAIN_PREFIX = {"prefix_length", "reparam", "reparam_hidden_size"}
_CAUSAL_SETTINGS = ({"position_law": "infix"}, {"reparam": "embedding"}, {"init": "attention_matching"})


def pairs(test: str) -> list[Any]:
    """The methods and families with which a test runs, as parameters; those of the slow tests are marked.

    Args:
        test: Name of the test.
    """
    return [
        pytest.param(
            (name, variant),
            family,
            id=f"{label(name, variant)}-{family}",
            marks=[pytest.mark.slow] if _is_slow(test, family, name, variant) else [],
        )
        for name, variant in METHODS
        for family in sorted(TINY_CONFIGS)
        if _is_wanted(test, family, name, variant)
    ]


def _is_slow(test: str, family: str, name: str, variant: Mapping[str, Any]) -> bool:
    """Every method meets every family; those that all methods have in common are met in the fast tests by a prefix."""
    # Its parts are tested by themselves, and checkpointing and precision elsewhere, too.
    if (name == "prefix_lora" or test in _TESTED_ELSEWHERE) and family != "gpt2":
        return True
    if name == "prefix_tuning":
        return family in _KIN_FAMILIES or (family not in ("gpt2", "bart") and not variant.keys() <= _PLAIN_PREFIX)
    if name in _OUTSIDE_THE_SOFTMAX:
        return family != "gpt2" or "layers" in variant
    if name == "peft" and variant["peft_type"] != _FAST_TUNER:
        return True
    return family != "gpt2" if name in _KIN else family not in ("gpt2", "bart")


def _is_wanted(test: str, family: str, name: str, variant: Mapping[str, Any]) -> bool:
    """Whether it is neither refused (by name, tested elsewhere) nor says what another pair says."""
    if test in _OF_THE_METHOD_ALONE and family not in ("gpt2", "bart"):
        return False
    if name == "peft" and variant["peft_type"] != _FAST_TUNER:
        return family in ("llama", "bart")
    if name == "bitfit":
        return family in ("gpt2", "bart")  # the others that are left have no biases
    if family in _DECODER_ONLY:
        return True
    if family in _ENCODER_DECODERS:
        return not any(settings.items() <= variant.items() for settings in _CAUSAL_SETTINGS)
    # They meet a family as `lora` or `gated_prefix` does; each family's names and slots are tested in `backbones`.
    if name in _KIN or name == "prefix_plus":
        return False
    return variant.get("reparam", "mlp") == "mlp" and not {"init", "init_text", "placement", "layers"} & variant.keys()
