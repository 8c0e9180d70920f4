"""A prefix in the attention function, compared with a cache, with plain arithmetic, and with itself."""

from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny_backbones import PAD
from support.toy_batches import EQUAL, Side, padded, random_ids, text_logits, texts, unpadded
from support.toy_prefixes import logits_through_a_cache, logits_with, naive_attention, random_additions, random_states
from torch import Tensor, nn
from torch.testing import assert_close

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs, left_padded
from ptl_prefix.backbones.prefix_attention import prefix_attention
from ptl_prefix.backbones.prefix_states import LayerStates, PrefixStates
from ptl_prefix.backbones.spec import load_backbone

BATCHES = {"unpadded": unpadded(), "left": padded(texts(), "left"), "right": padded(texts(), "right")}


@pytest.mark.parametrize("inputs", BATCHES.values(), ids=BATCHES.keys())
def test_a_prefix_equals_the_same_keys_and_values_in_a_cache(backbone: Backbone, inputs: ModelInputs) -> None:
    states = random_states(backbone, length=5)

    logits = logits_with(backbone, states, inputs)

    assert_close(logits, logits_through_a_cache(backbone, states, inputs), **EQUAL)
    bare = text_logits(backbone, inputs)
    assert all((row - bare_row).abs().max() > 0.1 for row, bare_row in zip(logits, bare, strict=True))


@pytest.mark.parametrize("num_rows", [1, 3])
def test_every_real_token_of_an_unpadded_batch_still_counts(backbone: Backbone, num_rows: int) -> None:
    inputs = unpadded(num_rows, length=4)
    changed = inputs.input_ids.clone()
    changed[:, -2] = (changed[:, -2] + 1) % 200 + PAD + 1
    states = random_states(backbone, length=8)  # more prefix than text

    before = logits_with(backbone, states, inputs)
    after = logits_with(backbone, states, inputs.replace(input_ids=changed))

    for row, changed_row in zip(before, after, strict=True):
        assert_close(row[:2], changed_row[:2], **EQUAL)
        assert (row[-1] - changed_row[-1]).abs().max() > 1e-2


def test_an_invisible_prefix_leaves_the_backbone_unchanged(backbone: Backbone) -> None:
    inputs = unpadded()
    bare = text_logits(backbone, inputs.with_positions(5))

    hidden = logits_with(backbone, random_states(backbone, length=5).invisible(), inputs)

    assert_close(hidden, bare, **EQUAL)


@pytest.mark.parametrize("side", ["left", "right"])
def test_prefixes_of_unequal_length_in_one_batch_equal_each_alone(backbone: Backbone, side: Side) -> None:
    prefixes = [random_states(backbone, length, seed=length) for length in (1, 7, 4)]
    alone = [
        logits_with(backbone, states, padded([text], side))[0] for states, text in zip(prefixes, texts(), strict=True)
    ]

    together = logits_with(backbone, PrefixStates.stack(prefixes), padded(texts(), side))

    assert_close(together, alone, **EQUAL)


def test_a_stack_keeps_each_row_s_own_layers_and_its_own_position_law(backbone: Backbone) -> None:
    prefixes = [
        random_states(backbone, 3, seed=1, layers=[2]),
        random_states(backbone, 5, seed=2, layers=[0, 2], shifted=False),
        random_states(backbone, 2, seed=3, layers=[]),
    ]
    alone = [
        logits_with(backbone, states, padded([text], "left"))[0] for states, text in zip(prefixes, texts(), strict=True)
    ]

    stacked = PrefixStates.stack(prefixes)

    assert [layer is None for layer in stacked.sites["decoder_self"]] == [False, True, False]
    assert_close(logits_with(backbone, stacked, padded(texts(), "left")), alone, **EQUAL)


def test_a_layer_without_a_prefix_computes_as_if_its_prefix_were_invisible(backbone: Backbone) -> None:
    # A cache would size every layer's mask from one layer; here each has its own.
    some = random_states(backbone, 6, layers=[1, 2])
    every = random_states(backbone, 6)
    first, *rest = every.sites["decoder_self"]
    assert first is not None
    hidden_first = LayerStates(first.key, first.value, torch.zeros_like(first.mask))
    hidden = PrefixStates({"decoder_self": (hidden_first, *rest)}, every.position_offset)

    assert_close(
        logits_with(backbone, some, unpadded()),
        logits_with(backbone, hidden, unpadded()),
        **EQUAL,
    )


def test_beams_of_a_row_share_that_row_s_prefix(backbone: Backbone) -> None:
    prefixes = [random_states(backbone, 4, seed=1), random_states(backbone, 6, seed=2)]
    prompts = [random_ids(5, seed=1), random_ids(5, seed=2)]

    together = _beam_scores(backbone, PrefixStates.stack(prefixes), prompts)

    alone = [_beam_scores(backbone, states, [prompt]) for states, prompt in zip(prefixes, prompts, strict=True)]
    swapped = [_beam_scores(backbone, states, [prompt]) for states, prompt in zip(prefixes, prompts[::-1], strict=True)]
    assert_close(together, torch.cat(alone), **EQUAL)
    assert (torch.cat(alone) - torch.cat(swapped)).abs().max() > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("kind", ["gated", "map"])
def test_beams_with_an_addition_have_the_scores_that_they_have_alone(tiny_folders: dict[str, Path], kind: str) -> None:
    backbone = load_backbone(str(tiny_folders["llama"]), dtype="float32")
    states = random_additions(backbone, kind)

    together = _beam_scores(backbone, states, texts())

    alone = torch.cat([_beam_scores(backbone, states, [text]) for text in texts()])
    assert_close(together, alone, **EQUAL)
    assert (together - _beam_scores(backbone, states.invisible(), texts())).abs().max() > 1e-2


def _beam_scores(backbone: Backbone, states: PrefixStates, prompts: list[list[int]]) -> Tensor:
    """The log-probability of each of three beams a prompt."""
    inputs = left_padded(prompts, PAD).with_positions(states.position_offset)
    backbone.slots.acquire()
    backbone.slots.fill(states)
    model: Any = backbone.model
    output = model.generate(
        input_ids=inputs.input_ids,
        attention_mask=inputs.attention_mask,
        position_ids=inputs.position_ids,
        num_beams=3,
        num_return_sequences=3,
        max_new_tokens=4,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=PAD,
        output_scores=True,
        return_dict_in_generate=True,
    )
    backbone.slots.release()
    scores: Tensor = output.sequences_scores
    return scores


class Site(nn.Module):
    """What the attention function asks of the module that calls it."""

    num_key_value_groups = 2
    is_causal = True

    def __init__(self, slot: LayerStates | None) -> None:
        super().__init__()
        self.prefix_slot = slot
        self.addition_slot = None


def _attention_inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, LayerStates, Tensor]:
    """Query, key and value of 2 texts of 3, a prefix of 4 of which the second row lacks one, and a causal mask."""
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 4, 3, 6), torch.randn(2, 2, 3, 6), torch.randn(2, 2, 3, 6)
    exists = torch.tensor([[True] * 4, [False] + [True] * 3])
    slot = LayerStates(torch.randn(2, 2, 4, 6), torch.randn(2, 2, 4, 6), exists)
    causal = torch.ones(3, 3, dtype=torch.bool).tril()[None, None]
    return query, key, value, slot, causal


def _as_float(mask: Tensor) -> Tensor:
    return torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)


@pytest.mark.parametrize("form", [lambda mask: mask, _as_float], ids=["bool", "float"])
def test_attention_over_prefix_and_text_is_what_plain_arithmetic_gives(form: Any) -> None:
    query, key, value, slot, causal = _attention_inputs()

    output, weights = prefix_attention(Site(slot), query, key, value, form(causal), scaling=0.3)

    visible = torch.cat([slot.mask[:, None, None, :].expand(2, 1, 3, 4), causal.expand(2, 1, 3, 3)], dim=-1)
    keys, values = torch.cat([slot.key, key], dim=2), torch.cat([slot.value, value], dim=2)
    assert_close(output, naive_attention(query, keys, values, visible, scale=0.3), **EQUAL)
    assert weights is None


def test_a_relative_position_bias_is_zero_for_the_prefix() -> None:
    query, key, value, slot, causal = _attention_inputs()
    bias = torch.randn(1, 4, 3, 3)

    output, _ = prefix_attention(Site(slot), query, key, value, causal, position_bias=bias, scaling=1.0)

    visible = torch.cat([slot.mask[:, None, None, :].expand(2, 1, 3, 4), causal.expand(2, 1, 3, 3)], dim=-1)
    keys, values = torch.cat([slot.key, key], dim=2), torch.cat([slot.value, value], dim=2)
    whole_bias = torch.cat([torch.zeros(1, 4, 3, 4), bias], dim=-1)
    assert_close(output, naive_attention(query, keys, values, visible, whole_bias), **EQUAL)


def test_an_empty_slot_is_attention_over_the_text_alone() -> None:
    query, key, value, _, causal = _attention_inputs()

    output, _ = prefix_attention(Site(None), query, key, value, causal, scaling=0.3)

    assert_close(output, naive_attention(query, key, value, causal, scale=0.3), **EQUAL)
