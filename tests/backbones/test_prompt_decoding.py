"""Prompts that are continued together have the continuations that they have alone."""

import random

import pytest
import torch

from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.generation import generate
from ptl_prefix.backbones.model_inputs import left_padded
from ptl_prefix.backbones.prompt_decoding import Prompt, decode_prompts

PROMPTS = [[random.Random(n).randrange(3, 288) for _ in range(2 + 3 * n)] for n in range(5)]


def prompts(**changes: object) -> list[Prompt]:
    values = {"max_new_tokens": 6, "is_end": lambda token: token == 1} | changes
    return [Prompt(ids=ids, seed=seed, **values) for seed, ids in enumerate(PROMPTS)]  # type: ignore[arg-type]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_neither_order_nor_number_of_rows_changes_a_continuation(backbone: Backbone, temperature: float) -> None:
    together = decode_prompts(backbone, prompts(), temperature=temperature, top_p=0.9, num_rows=3)

    alone = [decode_prompts(backbone, [one], temperature=temperature, top_p=0.9, num_rows=1)[0] for one in prompts()]
    assert together == alone
    reverse = decode_prompts(backbone, prompts()[::-1], temperature=temperature, top_p=0.9, num_rows=5)
    assert reverse[::-1] == alone


def test_the_most_likely_tokens_are_those_of_generate(backbone: Backbone) -> None:
    decoding = Decoding(
        max_new_tokens=6,
        min_new_tokens=0,
        num_beams=1,
        length_penalty=1.0,
        no_repeat_ngram_size=0,
        do_sample=False,
        temperature=1.0,
        top_p=1.0,
        seed=0,
    )
    expected = [generate(backbone, left_padded([ids], 2), decoding, [1])[0] for ids in PROMPTS]

    assert decode_prompts(backbone, prompts(), temperature=0.0, top_p=1.0, num_rows=4) == expected


def test_a_continuation_has_an_end_and_a_seed_of_its_own(backbone: Backbone) -> None:
    first = decode_prompts(backbone, prompts(is_end=lambda token: True), temperature=1.0, top_p=1.0, num_rows=5)
    assert [len(ids) for ids in first] == [1] * 5

    same = [Prompt(ids=PROMPTS[0], seed=seed, max_new_tokens=6, is_end=lambda token: False) for seed in (0, 0, 1)]
    one, again, other = decode_prompts(backbone, same, temperature=3.0, top_p=1.0, num_rows=2)
    assert one == again != other
    assert len(one) == 6


def test_the_global_generator_is_left_alone(backbone: Backbone) -> None:
    before = torch.random.get_rng_state()

    decode_prompts(backbone, prompts(), temperature=1.0, top_p=0.9, num_rows=2)

    assert torch.equal(torch.random.get_rng_state(), before)
    assert decode_prompts(backbone, [], temperature=1.0, top_p=0.9, num_rows=2) == []
