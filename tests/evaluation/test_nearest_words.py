"""A virtual token that is a word is found to be that word; one that is nothing is as near as chance."""

import pytest
import torch
from support.tiny_backbones import BOS
from torch.testing import assert_close

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.prefix_states import LayerStates
from ptl_prefix.backbones.vocabulary import Word, vocabulary_words, word_states
from ptl_prefix.evaluation.nearest_words import cosines_without_mean, find_nearest_words


@pytest.mark.parametrize("layer", [0, 2])
def test_a_prefix_made_of_words_finds_these_words(backbone: Backbone, layer: int) -> None:
    words = vocabulary_words(backbone)
    picked = [words[index] for index in (3, 30, 12)]
    text = torch.tensor([[BOS, word.token_id] for word in picked])
    read = backbone.model(text, use_cache=True).past_key_values.layers[layer]
    # (words, kv_heads, text, head_dim) -> (1, kv_heads, prefix, head_dim); another length changes no direction
    key, value = (states[:, :, 1].transpose(0, 1)[None].detach() for states in (read.keys, read.values))
    prefix = LayerStates(key, value, torch.ones(1, 3, dtype=torch.bool))

    states = word_states(backbone, words, {"decoder_self": [layer]})["decoder_self"][layer]
    found = find_nearest_words(prefix, states, words, layer=layer, top_k=2)

    for lists in (found.by_key, found.by_value):
        assert [nearest[0].token_id for nearest in lists] == [word.token_id for word in picked]
        assert [nearest[0].text for nearest in lists] == [word.text for word in picked]
        assert [nearest[0].cosine for nearest in lists] == pytest.approx([1.0] * 3, abs=1e-5)
        assert all(len(nearest) == 2 and nearest[1].cosine < 0.99 for nearest in lists)


@pytest.mark.parametrize("along", [-3.0, 0.0, 100.0])
def test_what_all_words_share_is_taken_out_however_much_of_it_a_prefix_has(along: float) -> None:
    shared = torch.tensor([100.0, 0.0, 0.0])
    of_words = torch.tensor([[0.0, 1.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, -1.0]]) + shared

    found = cosines_without_mean(torch.tensor([[along, 0.6, 0.8]]), of_words)

    assert_close(found, torch.tensor([[0.6, -0.6, 0.8, -0.8]]))


def made_up(num_words: int, width: int, shift: float = 0.0) -> tuple[torch.Tensor, list[Word]]:
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(2, num_words, width, generator=generator) + shift
    return states, [Word(index, f"w{index}") for index in range(num_words)]


def drawn_prefix(length: int, width: int) -> LayerStates:
    key, value = torch.randn(2, 1, 2, length, width // 2, generator=torch.Generator().manual_seed(2))
    return LayerStates(key, value, torch.ones(1, length, dtype=torch.bool))


@pytest.mark.parametrize("shift", [0.0, 5.0])
@pytest.mark.parametrize("size", [0.1, 10.0])
def test_random_numbers_of_any_size_are_as_near_as_chance_says(shift: float, size: float) -> None:
    states, words = made_up(500, 40, shift)
    prefix = drawn_prefix(200, 40)

    found = find_nearest_words(
        LayerStates(prefix.key * size, prefix.value * size, prefix.mask), states, words, layer=0, top_k=1
    )

    best = torch.tensor([[near[0].cosine for near in lists] for lists in (found.by_key, found.by_value)]).mean(dim=1)
    assert_close(best, torch.tensor([found.chance_by_key, found.chance_by_value]), rtol=0, atol=0.03)


def test_no_more_words_are_named_than_there_are() -> None:
    states, words = made_up(3, 8)

    found = find_nearest_words(drawn_prefix(2, 8), states, words, layer=5, top_k=9)

    assert found.layer == 5
    assert [len(near) for near in (*found.by_key, *found.by_value)] == [3] * 4
    for near in found.by_key:
        assert [word.cosine for word in near] == sorted((word.cosine for word in near), reverse=True)
