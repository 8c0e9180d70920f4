"""What a backbone's own keys and values look like, and that looking changes nothing."""

from typing import Any

import pytest
import torch
from support.toy_batches import EQUAL, text_logits, unpadded
from support.toy_prefixes import logits_with, random_states
from torch.testing import assert_close

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.observation import observed_keys_values, observed_stds
from ptl_prefix.backbones.spec import load_backbone


def test_what_is_observed_is_what_a_cache_would_hold(backbone: Backbone) -> None:
    # A cache holds keys after rotary embedding, as attention sees them.
    inputs = unpadded()
    cache = backbone.model(inputs.input_ids, use_cache=True).past_key_values

    observed = observed_keys_values(backbone, inputs)

    assert list(observed) == list(backbone.geometry)
    for (key, value), layer in zip(observed["decoder_self"], cache.layers, strict=True):
        assert_close(key, layer.keys, **EQUAL)
        assert_close(value, layer.values, **EQUAL)


def test_stds_are_those_of_channels_by_layer_keys_first(backbone: Backbone) -> None:
    samples: list[torch.Tensor] = []
    hook = backbone.model.register_forward_pre_hook(
        lambda _, __, given: samples.append(given["input_ids"]), with_kwargs=True
    )

    spreads = observed_stds(backbone)

    hook.remove()
    (sample,) = samples
    cache = backbone.model(sample, use_cache=True).past_key_values
    expected = [[_spread(layer.keys), _spread(layer.values)] for layer in cache.layers]
    assert spreads["decoder_self"].shape == (3, 2, 1, 1, 1)
    assert_close(spreads["decoder_self"].flatten(), torch.tensor(expected).flatten(), **EQUAL)
    # What all tokens share does not count: a key's bias may be larger than all that tells tokens apart.
    assert float(spreads["decoder_self"][0, 0]) < float(cache.layers[0].keys.square().mean().sqrt())


def _spread(numbers: torch.Tensor) -> float:
    """Of (batch, heads, text, head_dim): how far each channel of each head strays from its mean."""
    channels = numbers.transpose(1, 2).flatten(0, 1).flatten(1)  # (tokens, channels)
    variance = (channels - channels.mean(dim=0)).square().sum(dim=0) / (len(channels) - 1)
    return float(variance.mean().sqrt())


def test_stds_are_deterministic_and_leave_the_random_state_unchanged(backbone: Backbone) -> None:
    before = torch.get_rng_state()

    first, second = observed_stds(backbone), observed_stds(backbone)

    assert_close(first, second, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_observing_ignores_dropout_and_restores_the_mode(backbone: Backbone, tiny_folders: Any) -> None:
    training = load_backbone(str(tiny_folders[backbone.family]), dtype="float32", base_mode="train")

    assert_close(observed_stds(training), observed_stds(backbone), rtol=0, atol=0)
    assert {module.training for module in training.model.modules()} == {True}


def test_observing_leaves_the_model_as_it_was(backbone: Backbone) -> None:
    usual, bare = backbone.config._attn_implementation, text_logits(backbone, unpadded())

    observed_stds(backbone)

    assert backbone.config._attn_implementation == usual
    assert not any(hasattr(module, "observed") for module in backbone.model.modules())
    assert all(torch.equal(a, b) for a, b in zip(text_logits(backbone, unpadded()), bare, strict=True))


def test_observing_leaves_the_model_as_it_was_after_an_error_too(backbone: Backbone) -> None:
    def break_down(*_: Any) -> None:
        raise ArithmeticError("broken on purpose")

    usual = backbone.config._attn_implementation
    hook = backbone.model.get_output_embeddings().register_forward_hook(break_down)
    with pytest.raises(ArithmeticError):
        observed_stds(backbone)

    hook.remove()
    assert backbone.config._attn_implementation == usual
    assert not any(hasattr(module, "observed") for module in backbone.model.modules())


def test_observing_computes_no_logits(backbone: Backbone) -> None:
    # Of a large vocabulary they would be most of the memory that a method is made in.
    seen: list[torch.Size] = []
    hook = backbone.model.get_output_embeddings().register_forward_hook(lambda _, __, out: seen.append(out.shape))

    observed_stds(backbone)

    hook.remove()
    assert [shape.numel() for shape in seen] == [0]


def test_a_backbone_can_be_observed_while_its_slots_are_acquired(backbone: Backbone) -> None:
    states = random_states(backbone, 4)
    bare, adapted = observed_stds(backbone), logits_with(backbone, states, unpadded())
    backbone.slots.acquire()
    backbone.slots.fill(states)

    assert_close(observed_stds(backbone), bare, **EQUAL)

    assert_close(logits_with(backbone, states, unpadded()), adapted, **EQUAL)
