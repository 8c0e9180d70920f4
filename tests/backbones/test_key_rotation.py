"""Keys moved by rotation are those that the backbone itself computes at the other positions."""

from typing import Any

import pytest
import torch
from support.tiny_backbones import TINY_CONFIGS, set_weights, tiny_config, tiny_tokenizer
from support.toy_batches import EQUAL, unpadded
from torch import Tensor
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.key_rotation import has_rotary_keys, moved_keys
from ptl_prefix.backbones.observation import observed_keys_values
from ptl_prefix.errors import BackboneError

ROTARY = ["gemma", "gemma2", "gemma3_text", "gpt_neox", "llama", "mistral", "qwen2", "qwen3"]
SCALINGS: dict[str, dict[str, Any]] = {
    "linear": {"factor": 4.0},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 16},
    "dynamic": {"factor": 4.0},
}


def new_backbone(family: str, **changes: Any) -> Backbone:
    config = tiny_config(family)
    for name, value in changes.items():
        setattr(config, name, value)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    set_weights(model, seed=0)
    return Backbone(
        model=model, tokenizer=tiny_tokenizer(), name=family, path=family, base_mode="eval", fingerprints=None
    )


def keys_at(backbone: Backbone, offset: int) -> Tensor:
    """The keys of one text whose positions start at an offset, (layers, kv_heads, text, head_dim)."""
    inputs = unpadded(num_rows=1).with_positions(offset)
    return torch.cat([key for key, _ in observed_keys_values(backbone, inputs)["decoder_self"]])


def assert_moves(backbone: Backbone) -> None:
    layers = range(backbone.geometry["decoder_self"].num_layers)
    at_3, at_10 = keys_at(backbone, 3), keys_at(backbone, 10)

    assert float((at_10 - at_3).abs().max()) > 0.1
    assert_close(moved_keys(backbone, at_3, layers=layers, by=7), at_10, **EQUAL)
    assert_close(moved_keys(backbone, at_10[1:2], layers=[1], by=-7), at_3[1:2], **EQUAL)


@pytest.mark.parametrize("family", ROTARY)
def test_moved_keys_are_those_that_the_backbone_computes_there(family: str) -> None:
    backbone = new_backbone(family)

    assert has_rotary_keys(backbone)
    assert_moves(backbone)


@pytest.mark.parametrize("scaling", ["linear", "llama3", "yarn"])
def test_scaled_frequencies_rotate_as_far_as_the_backbone_does(scaling: str) -> None:
    parameters = {"rope_type": scaling, "rope_theta": 10000.0, **SCALINGS[scaling]}

    assert_moves(new_backbone("llama", rope_parameters=parameters))


def test_frequencies_that_follow_the_text_s_length_are_refused() -> None:
    parameters = {"rope_type": "dynamic", "rope_theta": 10000.0, **SCALINGS["dynamic"]}
    backbone = new_backbone("llama", rope_parameters=parameters)

    with pytest.raises(BackboneError, match="this backbone's is 'dynamic'"):
        moved_keys(backbone, keys_at(backbone, 0), layers=[0, 1, 2], by=1)


@pytest.mark.parametrize("family", sorted(TINY_CONFIGS.keys() - set(ROTARY) - {"bart", "mbart", "t5", "mt5"}))
def test_learned_positions_are_no_rotations(family: str) -> None:
    assert not has_rotary_keys(new_backbone(family))


def test_the_frequencies_of_a_bfloat16_backbone_are_not_rounded() -> None:
    backbone = new_backbone("llama")
    keys = keys_at(backbone, 3)
    expected = moved_keys(backbone, keys, layers=range(3), by=500)
    backbone.model.to(torch.bfloat16)

    assert_close(moved_keys(backbone, keys, layers=range(3), by=500), expected, rtol=0, atol=0)
