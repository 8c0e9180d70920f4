"""A cache that begins with the prefix: every step's logits are those of the slots, and no step copies the prefix."""

from pathlib import Path
from typing import Any

import pytest
import torch
from support.method_nodes import new_method
from support.tiny_backbones import PAD
from support.toy_batches import EQUAL, texts, train
from support.toy_prefixes import random_states
from torch import Tensor
from torch.testing import assert_close
from transformers import DynamicCache, EncoderDecoderCache

from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.generation import generate
from ptl_prefix.backbones.model_inputs import ModelInputs, Padding, prompt_batch
from ptl_prefix.backbones.prefix_cache import PreallocatedLayer
from ptl_prefix.backbones.prefix_states import PrefixStates
from ptl_prefix.backbones.spec import load_backbone
from ptl_prefix.settings import defaults_of

FAMILIES = ["gpt2", "llama", "gpt_neox", "opt", "bart"]
SETTINGS: dict[str, dict[str, Any]] = {
    "every layer": {"reparam": "none"},
    "some layers": {"reparam": "none", "layers": [0, 2]},
    "infix": {"reparam": "none", "position_law": "infix"},
}


@pytest.fixture(params=FAMILIES)
def any_kind(request: pytest.FixtureRequest, tiny_folders: dict[str, Path]) -> Backbone:
    """Backbones of both kinds."""
    return load_backbone(str(tiny_folders[request.param]), dtype="float32")


def prompts(backbone: Backbone) -> ModelInputs:
    return prompt_batch(texts(), Padding(PAD, backbone.prompter(PromptFormat()).decoder_start_ids))


def step_logits(backbone: Backbone, inputs: ModelInputs, cache: Any, num_beams: int = 1) -> Tensor:
    """The logits of six steps."""
    start = {"position_ids": inputs.position_ids, "decoder_input_ids": inputs.decoder_input_ids}
    output = backbone.model.generate(  # type: ignore[operator]
        **backbone.input_arguments(inputs),
        **{name: value for name, value in start.items() if value is not None},
        past_key_values=cache,
        max_new_tokens=6,
        num_beams=num_beams,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=PAD,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return torch.stack(output.logits)


def room_in(backbone: Backbone, written: int = 20) -> Any:
    return backbone.slots.cache(read=12, written=written)


def plain_cache(backbone: Backbone) -> Any:
    both = EncoderDecoderCache(DynamicCache(), DynamicCache())
    return both if backbone.is_encoder_decoder else DynamicCache(config=backbone.config)


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("name", SETTINGS)
def test_every_step_has_the_logits_that_it_has_by_way_of_the_slots(
    any_kind: Backbone, name: str, num_beams: int
) -> None:
    if name == "infix" and any_kind.is_encoder_decoder:
        return
    torch.manual_seed(0)
    method = new_method("prefix_tuning", prefix_length=4, **SETTINGS[name]).attach(any_kind)
    train(any_kind, method, steps=3)
    inputs = method.eval().condition(prompts(any_kind))
    cache = room_in(any_kind)
    assert cache is not None

    ours = step_logits(any_kind, inputs, cache, num_beams)

    assert_close(ours, step_logits(any_kind, inputs, plain_cache(any_kind), num_beams), **EQUAL)
    any_kind.slots.clear()
    bare = step_logits(any_kind, inputs, plain_cache(any_kind), num_beams)
    assert (ours[0] - bare[0]).abs().max() > 1e-2


@pytest.mark.parametrize("num_beams", [1, 2])
def test_rows_with_prefixes_of_their_own_keep_them(any_kind: Backbone, num_beams: int) -> None:
    method = new_method("prefix_tuning", prefix_length=4, reparam="none").attach(any_kind)
    inputs = method.condition(prompts(any_kind))
    each = [random_states(any_kind, length, seed=length) for length in (3, 5, 1)]
    any_kind.slots.fill(PrefixStates.stack(each))

    ours = step_logits(any_kind, inputs, room_in(any_kind), num_beams)

    assert_close(ours, step_logits(any_kind, inputs, plain_cache(any_kind), num_beams), **EQUAL)


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("written", [1, 10, 20])
def test_a_cache_that_is_too_small_grows(any_kind: Backbone, num_beams: int, written: int) -> None:
    method = new_method("prefix_tuning", prefix_length=4, reparam="none").attach(any_kind)
    inputs = method.condition(prompts(any_kind))

    ours = step_logits(any_kind, inputs, room_in(any_kind, written), num_beams)

    assert_close(ours, step_logits(any_kind, inputs, plain_cache(any_kind), num_beams), **EQUAL)


def test_without_a_prefix_the_cache_of_transformers_is_used(any_kind: Backbone) -> None:
    assert room_in(any_kind) is None
    method = new_method("prefix_tuning", prefix_length=4, reparam="none").attach(any_kind)
    assert room_in(any_kind) is None
    method.condition(prompts(any_kind))
    assert room_in(any_kind) is not None
    any_kind.slots.clear()
    assert room_in(any_kind) is None


def test_the_prefix_is_written_once_and_no_step_allocates_again(
    any_kind: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = new_method("prefix_tuning", prefix_length=4, reparam="none").attach(any_kind)
    decoding = Decoding(**{**defaults_of("generation/greedy"), "max_new_tokens": 5})
    usual, made = PreallocatedLayer.lazy_initialization, []

    def counted(self: PreallocatedLayer, *arguments: Tensor) -> None:
        usual(self, *arguments)
        made.append((self, self._buffers[0]))

    monkeypatch.setattr(PreallocatedLayer, "lazy_initialization", counted)

    generate(any_kind, method.condition(prompts(any_kind)), decoding, ())

    layers = [any_kind.geometry[site].num_layers for site in any_kind.geometry if site.startswith("decoder")]
    assert len(made) == sum(layers)
    assert all(layer._buffers[0] is place for layer, place in made)


@pytest.mark.parametrize("family", ["mistral", "gemma2", "gemma3_text", "t5"])
def test_layers_with_a_window_or_a_bias_use_the_slots_instead(tiny_folders: dict[str, Path], family: str) -> None:
    backbone = load_backbone(str(tiny_folders[family]), dtype="float32")
    method = new_method("prefix_tuning", prefix_length=4, reparam="none").attach(backbone)

    method.condition(prompts(backbone))

    assert room_in(backbone) is None
