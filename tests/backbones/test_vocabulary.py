"""Which tokens are words, and what attention sees of each."""

from typing import Any

import pytest
import torch
from support.tiny_backbones import BOS, EOS, PAD
from support.toy_batches import EQUAL
from support.toy_prefixes import random_states
from torch.testing import assert_close

from ptl_prefix.backbones import vocabulary
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.vocabulary import Word, vocabulary_words, word_states


def test_words_are_tokens_with_a_letter_or_a_digit_and_keep_their_space(backbone: Backbone) -> None:
    words = vocabulary_words(backbone)

    texts = {word.text for word in words}
    assert {"a", "7", " the"} <= texts
    assert not {",", ":", " ", "<bos>", "<eos>", "<pad>", ""} & texts
    assert not any("\N{REPLACEMENT CHARACTER}" in text for text in texts)
    assert not {BOS, EOS, PAD} & {word.token_id for word in words}
    assert [word.token_id for word in words] == sorted(word.token_id for word in words)
    for word in words:
        assert backbone.tokenizer.decode([word.token_id]) == word.text


def test_a_word_with_a_piece_of_a_character_is_none(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        backbone.tokenizer, "batch_decode", lambda pairs, **_: [f"ax{chr(0xFFFD)}" if p[1] % 2 else "ax" for p in pairs]
    )

    assert {word.token_id % 2 for word in vocabulary_words(backbone)} == {0}


def test_a_model_with_fewer_ids_than_its_tokenizer_has_fewer_words(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbone.model.config, "vocab_size", 100)

    assert max(word.token_id for word in vocabulary_words(backbone)) < 100


def test_a_words_states_are_those_at_the_second_place_of_a_text(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabulary, "_BATCH_WORDS", 3)  # the last batch has one word
    words = vocabulary_words(backbone)[20:27]
    backbone.slots.acquire()
    backbone.slots.fill(random_states(backbone, 4))

    found = word_states(backbone, words, {"decoder_self": [0, 2]})["decoder_self"]

    backbone.slots.release()
    text = torch.tensor([[BOS, word.token_id] for word in words])
    cache = backbone.model(text, use_cache=True).past_key_values
    assert list(found) == [0, 2]
    for layer, states in found.items():
        assert_close(states[0], cache.layers[layer].keys[:, :, 1].flatten(1), **EQUAL)
        assert_close(states[1], cache.layers[layer].values[:, :, 1].flatten(1), **EQUAL)


def test_without_a_start_token_the_end_token_stands_in_front(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Any] = []
    usual = vocabulary.observed_keys_values
    monkeypatch.setattr(vocabulary, "observed_keys_values", lambda b, inputs: read.append(inputs) or usual(b, inputs))
    backbone.tokenizer.bos_token = None

    word_states(backbone, [Word(50, "x")], {"decoder_self": [0]})

    assert read[0].input_ids.tolist() == [[EOS, 50]]


def test_a_site_that_does_not_read_the_word_is_left_out(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = vocabulary.observed_keys_values

    def observed(backbone: Backbone, inputs: Any) -> Any:
        read = usual(backbone, inputs)["decoder_self"]
        return {"decoder_self": [(key[:, :, :1], value[:, :, :1]) for key, value in read], "encoder_self": read}

    monkeypatch.setattr(vocabulary, "observed_keys_values", observed)

    assert list(word_states(backbone, vocabulary_words(backbone)[:4], {"decoder_self": [0], "encoder_self": [1]})) == [
        "encoder_self"
    ]
