"""Infix-tuning: what stands between prompt and target is seen from there on, and shifts nothing before it."""

from typing import Any

import pytest
import torch
from support.tiny_backbones import MAX_POSITIONS, PAD
from support.toy_batches import EQUAL, random_ids, text_logits, texts, train, training_batch
from torch import Tensor
from torch.testing import assert_close
from transformers import DynamicCache

from ptl_prefix import PrefixTuning
from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.generation import generate
from ptl_prefix.backbones.model_inputs import ModelInputs, left_padded
from ptl_prefix.backbones.prefix_states import PrefixStates
from ptl_prefix.settings import defaults_of

LENGTH = 4


@pytest.fixture
def infix(backbone: Backbone) -> PrefixTuning:
    """An infix away from its start."""
    torch.manual_seed(0)
    method = PrefixTuning(prefix_length=LENGTH, reparam="none", position_law="infix").attach(backbone)
    train(backbone, method, steps=2)
    return method.eval()


@torch.no_grad()
def _through_a_cache(backbone: Backbone, states: PrefixStates, prompt: list[int], target: list[int]) -> Tensor:
    """Logits from the last token of the prompt on: the text before it in a cache, the infix behind that."""
    before, rest = torch.tensor([prompt[:-1]]), torch.tensor([[prompt[-1], *target]])
    cache = backbone.model(before, use_cache=True).past_key_values
    layers = []
    for own, layer in zip(cache.layers, states.sites["decoder_self"], strict=True):
        assert layer is not None
        layers.append((torch.cat([own.keys, layer.key], dim=2), torch.cat([own.values, layer.value], dim=2)))
    positions = torch.arange(rest.shape[1])[None] + before.shape[1] + LENGTH
    logits: Tensor = backbone.model(rest, position_ids=positions, past_key_values=DynamicCache(layers)).logits[0]
    return logits


def test_it_is_what_a_cache_between_prompt_and_target_gives(backbone: Backbone, infix: PrefixTuning) -> None:
    batch = training_batch()
    logits, states = backbone.logits(infix.condition(batch)).detach(), infix.states()
    infix.detach()

    assert batch.labels is not None
    for row, ids in enumerate(batch.input_ids):
        start = int((batch.labels[row] >= 0).int().argmax())
        length = int(batch.attention_mask[row].sum())
        prompt, target = ids[:start].tolist(), ids[start:length].tolist()
        expected = _through_a_cache(backbone, states, prompt, target)
        assert_close(logits[row, start - 1 : length], expected, **EQUAL)
        # Nothing before the prompt's last token sees it.
        bare = backbone.logits(ModelInputs(ids[None, :start], torch.ones(1, start, dtype=torch.long)))
        assert_close(logits[row, : start - 1], bare[0, :-1], **EQUAL)


def test_the_source_keeps_its_positions_and_the_target_is_shifted(backbone: Backbone, infix: PrefixTuning) -> None:
    batch = training_batch()

    positions = infix.condition(batch).position_ids

    assert positions is not None
    # The first row: six tokens of source, the last of which says the target's first.
    assert positions[0, :12].tolist() == [0, 1, 2, 3, 4, *(place + LENGTH for place in range(5, 12))]
    assert infix.position_law == "infix"
    assert infix.reserved_positions(backbone) == LENGTH


@pytest.mark.parametrize("num_beams", [1, 3])
def test_every_row_is_decoded_as_a_cache_would_have_it(backbone: Backbone, infix: PrefixTuning, num_beams: int) -> None:
    decoding = Decoding(**{**defaults_of("generation/greedy"), "max_new_tokens": 5, "num_beams": num_beams})
    prompts = [random_ids(length, seed=length) for length in (9, 5, 2)]

    together = generate(backbone, infix.condition(left_padded(prompts, PAD)), decoding, stop_ids=[])

    alone = [
        generate(backbone, infix.condition(left_padded([prompt], PAD)), decoding, stop_ids=[])[0] for prompt in prompts
    ]
    assert together == alone
    # Tokens alone would say little of a random model: the scores of what was written must be the cache's too.
    for prompt, target in zip(prompts, together, strict=True):
        inputs = infix.condition(left_padded([prompt], PAD))
        assert inputs.position_ids is not None
        ids = torch.tensor([[*prompt, *target]])
        positions = torch.cat([inputs.position_ids, inputs.position_ids[:, -1:] + torch.arange(1, 6)], dim=1)
        with torch.no_grad():
            logits = backbone.logits(ModelInputs(ids, torch.ones_like(ids), position_ids=positions))[0]
        assert_close(logits[len(prompt) - 1 :], _bare(backbone, infix, prompt, target), **EQUAL)


def _bare(backbone: Backbone, infix: PrefixTuning, prompt: list[int], target: list[int]) -> Tensor:
    states = infix.states()
    infix.detach()
    try:
        return _through_a_cache(backbone, states, prompt, target)
    finally:
        infix.attach(backbone)


def test_an_infix_and_a_prefix_share_a_batch(backbone: Backbone, infix: PrefixTuning) -> None:
    prefix = PrefixTuning(prefix_length=6, reparam="none").attach(backbone)
    inputs = left_padded(texts()[:2], PAD)
    rows = [ModelInputs(inputs.input_ids[i : i + 1], inputs.attention_mask[i : i + 1]) for i in range(2)]
    alone = [text_logits(backbone, method.condition(row))[0] for method, row in zip((infix, prefix), rows, strict=True)]

    states = PrefixStates.stack([infix.states().seen_from(rows[0].first_written), prefix.states()])
    backbone.slots.fill(states)
    together = text_logits(backbone, inputs.with_positions(states.text_offset(inputs.input_ids.shape[1])))

    assert_close(together, alone, **EQUAL)


def test_an_encoder_decoder_refuses_it_by_that_reason(encoder_decoder: Backbone) -> None:
    (misfit,) = PrefixTuning(position_law="infix").incompatibilities(encoder_decoder)

    assert misfit.startswith("`method.position_law` must be unshifted in encoder-decoders")


def test_an_infix_must_leave_positions_for_text(backbone: Backbone) -> None:
    settings: dict[str, Any] = {"prefix_length": MAX_POSITIONS, "position_law": "infix"}

    assert "`method.prefix_length` must be less than" in PrefixTuning(**settings).incompatibilities(backbone)[0]
