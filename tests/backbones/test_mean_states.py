"""Mean hidden states: of the bare backbone over a text's own tokens, whatever stands beside it or in the slots."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support.toy_prefixes import random_states

from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.mean_states import mean_states
from ptl_prefix.backbones.spec import load_backbone

TEXTS = ["the old mill", "", "a pub near the river, and a long way from the city", "the old mill"]


@pytest.fixture(params=["gpt2", "llama", "bart", "t5"])
def one(request: pytest.FixtureRequest, tiny_folders: dict[str, Path]) -> Backbone:
    return load_backbone(str(tiny_folders[request.param]), name=request.param, dtype="float32")


def test_a_text_has_the_same_state_alone_in_a_batch_and_computed_by_hand(one: Backbone) -> None:
    states = mean_states(one, TEXTS)

    assert states.shape == (4, one.hidden_size)
    assert not states[1].any()
    assert np.abs(states[0] - states[2]).max() > 1e-3
    for index in (0, 2):
        alone = mean_states(one, [TEXTS[index]])[0]
        assert np.allclose(states[index], alone, atol=1e-5)
        ids = torch.tensor([one.prompter(PromptFormat()).source_ids(TEXTS[index])])
        model = one.model.get_encoder() if one.is_encoder_decoder else one.model
        with torch.no_grad():
            by_hand = model(input_ids=ids, output_hidden_states=True)
        last = (by_hand.last_hidden_state if one.is_encoder_decoder else by_hand.hidden_states[-1]).mean(dim=1)[0]
        assert np.allclose(alone, last.numpy(), atol=1e-5)


def test_a_prefix_in_the_slots_has_no_effect_and_is_taken_out(backbone: Backbone) -> None:
    bare = mean_states(backbone, TEXTS)
    backbone.slots.acquire()
    backbone.slots.fill(random_states(backbone, 3))

    assert np.array_equal(mean_states(backbone, TEXTS), bare)

    backbone.slots.release()


def test_the_start_of_a_long_text_is_read(monkeypatch: pytest.MonkeyPatch, backbone: Backbone) -> None:
    monkeypatch.setattr("ptl_prefix.backbones.mean_states.MAX_TOKENS", 4)

    short, long = mean_states(backbone, ["a b c d", "a b c d" + " e f" * 500])

    assert np.allclose(short, long, atol=1e-5)
