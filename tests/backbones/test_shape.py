"""A backbone of nothing but numbers: its shapes, and what it refuses."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ptl_prefix.backbones.shape import LlamaSpec
from ptl_prefix.errors import BackboneError
from ptl_prefix.settings import defaults_of

SMALL = {
    "num_hidden_layers": 2,
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 100,
    "max_position_embeddings": 64,
}


@pytest.mark.parametrize(
    ("config", "num_parameters", "kv_width"), [("llama_13b", 13_015_864_320, 5120), ("llama_1b", 1_235_814_400, 512)]
)
def test_the_shipped_shapes_have_the_published_number_of_parameters(
    config: str, num_parameters: int, kv_width: int
) -> None:
    shape = LlamaSpec(**defaults_of(f"backbone/{config}")).load_shape()

    assert shape.is_shape_only
    assert shape.num_parameters == num_parameters
    assert shape.num_bytes == 2 * num_parameters
    assert shape.geometry["decoder_self"].kv_width == kv_width


@pytest.mark.parametrize("tied", [False, True])
def test_a_shape_has_the_parameters_of_the_model_with_weights(tied: bool) -> None:
    model = LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=tied))

    shape = LlamaSpec(**SMALL, tie_word_embeddings=tied).load_shape()

    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    assert {name: parameter.shape for name, parameter in shape.model.named_parameters()} == shapes
    assert shape.max_positions == 64
    assert shape.dtype == torch.bfloat16


def test_loading_a_shape_without_weights_is_refused_with_what_to_do() -> None:
    with pytest.raises(BackboneError, match=r"must have weights, but llama_13b is .*backbone="):
        LlamaSpec().load()


def test_without_its_own_tokenizer_tokens_are_counted_with_the_embedded_one_and_a_note_says_so(
    tiny_folders: dict[str, Path],
) -> None:
    borrowed, own = LlamaSpec(**SMALL), LlamaSpec(**SMALL, tokenizer=str(tiny_folders["llama"]))

    assert len(borrowed.load_shape().tokenizer) == 8192
    assert "counted with that of the embedded tiny_gpt2" in borrowed.notes[0]
    assert len(own.load_shape().tokenizer) != 8192
    assert own.notes == ()


def test_every_invalid_number_of_a_shape_is_reported(tmp_path: Path) -> None:
    changes: dict[str, Any] = {**SMALL, "num_key_value_heads": 3, "hidden_size": 25, "tokenizer": str(tmp_path)}

    heads, width, tokenizer = LlamaSpec(**changes).problems()

    assert "`backbone.num_attention_heads` must be a multiple of `backbone.num_key_value_heads`, but is 4" in heads
    assert "`backbone.hidden_size` must be a multiple of `backbone.num_attention_heads`, but is 25" in width
    assert "`backbone.tokenizer`: A tokenizer must be in a local folder or on a hub that can be reached" in tokenizer
    assert str(tmp_path) in tokenizer
    assert LlamaSpec(**SMALL).problems() == []
