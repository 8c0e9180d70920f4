"""Contracts hold for every family; all variants of a method meet four families, of every kind, the others one.

What a method promises of itself alone is tested on one family of each kind. Of the methods, only prefix-tuning meets
the families in the fast tests, in its two plain ways, but for those that are kin of another family; the other methods
meet one of either kind there, or GPT-2 alone if they are kin of another method, and the rest in the slow ones.
"""

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ptl_prefix.backbones.backbone import Backbone

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


@pytest.fixture
def backbone(any_backbone: "Backbone") -> "Backbone":
    """A tiny backbone of any family."""
    return any_backbone


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is refused (by name, tested elsewhere), and what would say nothing new."""
    left_out = {
        item for item in items if not _is_wanted(getattr(item, "originalname", ""), getattr(item, "callspec", None))
    }
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]
    for item in items:
        if _is_slow(getattr(item, "originalname", ""), getattr(item, "callspec", None)):
            item.add_marker(pytest.mark.slow)


def _is_slow(test: str, callspec: Any) -> bool:
    """Every method meets every family; those that all methods have in common are met here by a prefix."""
    if callspec is None or not {"any_backbone", "new_method"} <= callspec.params.keys():
        return False
    family, (name, variant) = callspec.params["any_backbone"], callspec.params["new_method"]
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


def _is_wanted(test: str, callspec: Any) -> bool:
    if callspec is None or not {"any_backbone", "new_method"} <= callspec.params.keys():
        return True
    family, (name, variant) = callspec.params["any_backbone"], callspec.params["new_method"]
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
