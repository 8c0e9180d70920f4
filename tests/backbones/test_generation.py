"""Decoding: where it ends, what it needs room for, and what it leaves as it was."""

import itertools
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from support.tiny_backbones import MAX_POSITIONS, PAD
from support.toy_batches import EQUAL, padded, random_ids, texts, unpadded
from support.toy_prefixes import random_states

from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.generation import generate
from ptl_prefix.backbones.model_inputs import left_padded
from ptl_prefix.backbones.spec import load_backbone
from ptl_prefix.settings import defaults_of


def decoding(**changes: Any) -> Decoding:
    """Greedy decoding of eight tokens, but for what is changed."""
    return Decoding(**{**defaults_of("generation/greedy"), "max_new_tokens": 8, **changes})


SAMPLED = {"do_sample": True, "temperature": 1.5}


def test_without_a_stop_exactly_the_most_tokens_are_written(backbone: Backbone) -> None:
    written = generate(backbone, padded(texts(), "left"), decoding(), stop_ids=[])

    assert [len(ids) for ids in written] == [8, 8, 8]


def test_what_is_written_ends_with_the_first_stop(backbone: Backbone) -> None:
    inputs = padded(texts(), "left")
    free = generate(backbone, inputs, decoding(**SAMPLED), stop_ids=[])
    stops = [free[0][3], free[1][5]]

    written = generate(backbone, inputs, decoding(**SAMPLED), stop_ids=stops)

    assert written[0] == free[0][: 1 + min(place for place, token in enumerate(free[0]) if token in stops)]
    for row, free_row in zip(written, free, strict=True):
        assert row == free_row[: len(row)]
        assert not set(row[:-1]) & set(stops)
        assert row[-1] in stops or len(row) == 8
    # Rows that have ended are filled up inside the batch; none of that comes out.
    assert PAD not in written[0]


def test_a_stop_may_not_come_before_the_fewest_tokens(backbone: Backbone) -> None:
    first = generate(backbone, unpadded(1), decoding(), stop_ids=[])[0][0]
    assert generate(backbone, unpadded(1), decoding(), stop_ids=[first]) == [[first]]

    (written,) = generate(backbone, unpadded(1), decoding(min_new_tokens=4), stop_ids=[first])

    assert len(written) >= 4
    assert first not in written[:3]


def test_a_shortest_length_above_the_longest_is_refused(backbone: Backbone) -> None:
    with pytest.raises(ValueError, match=r"`min_new_tokens` must be <= `max_new_tokens`, but is 9 with"):
        generate(backbone, unpadded(1), decoding(min_new_tokens=9), stop_ids=[])


def test_a_row_is_decoded_as_if_it_were_alone(backbone: Backbone) -> None:
    together = generate(backbone, padded(texts(), "left"), decoding(), stop_ids=[])

    alone = [generate(backbone, left_padded([text], PAD), decoding(), stop_ids=[])[0] for text in texts()]

    assert together == alone


def test_each_step_has_the_logits_of_one_forward_over_all_that_is_written(backbone: Backbone) -> None:
    # Tokens alone would not do: a random model writes the same ones at wrong positions.
    states = random_states(backbone, 7)
    prompts = padded(texts(), "left").with_positions(states.position_offset)
    backbone.slots.acquire()
    backbone.slots.fill(states)
    steps: list[torch.Tensor] = []
    hook = backbone.model.register_forward_hook(lambda model, arguments, output: steps.append(output.logits[:, -1]))

    written = generate(backbone, prompts, decoding(max_new_tokens=4), stop_ids=[])

    hook.remove()
    whole = left_padded([text + ids for text, ids in zip(texts(), written, strict=True)], PAD)
    with torch.no_grad():
        logits = backbone.logits(whole.with_positions(states.position_offset))
    torch.testing.assert_close(torch.stack(steps, dim=1), logits[:, -5:-1], **EQUAL)


def test_beams_find_a_text_at_least_as_likely_as_the_greedy_one(backbone: Backbone) -> None:
    inputs = left_padded([random_ids(5, seed=3)], PAD)
    (greedy,) = generate(backbone, inputs, decoding(max_new_tokens=4), stop_ids=[])

    (beam,) = generate(backbone, inputs, decoding(max_new_tokens=4, num_beams=16), stop_ids=[])

    assert _log_likelihood(backbone, beam) >= _log_likelihood(backbone, greedy)
    assert beam != greedy


@torch.no_grad()
def _log_likelihood(backbone: Backbone, written: list[int]) -> float:
    whole = left_padded([random_ids(5, seed=3) + written], PAD)
    log_probabilities = backbone.logits(whole)[0, 4:-1].log_softmax(-1)
    return float(log_probabilities[range(len(written)), written].sum())


def test_no_pair_of_tokens_comes_twice_when_that_is_asked(backbone: Backbone) -> None:
    (written,) = generate(backbone, unpadded(1), decoding(max_new_tokens=30, no_repeat_ngram_size=2), stop_ids=[])

    pairs = list(itertools.pairwise(written))
    assert len(set(pairs)) == len(pairs)


def test_sampling_is_a_function_of_its_seed(backbone: Backbone) -> None:
    once = generate(backbone, unpadded(), decoding(**SAMPLED, seed=1), stop_ids=[])
    torch.manual_seed(123)
    again = generate(backbone, unpadded(), decoding(**SAMPLED, seed=1), stop_ids=[])
    other = generate(backbone, unpadded(), decoding(**SAMPLED, seed=2), stop_ids=[])

    assert once == again
    assert once != other


@pytest.mark.parametrize("settings", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_decoding_leaves_the_random_state_of_the_caller_alone(backbone: Backbone, settings: dict[str, Any]) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()

    generate(backbone, unpadded(), decoding(**settings), stop_ids=[])

    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_while_decoding_and_the_mode_comes_back(backbone: Backbone, training: bool) -> None:
    quiet = generate(backbone, unpadded(), decoding(), stop_ids=[])
    backbone.model.train(training)
    modes: list[bool] = []
    hook = backbone.model.register_forward_pre_hook(lambda model, _: modes.append(model.training))

    written = generate(backbone, unpadded(), decoding(), stop_ids=[])

    hook.remove()
    assert written == quiet
    assert set(modes) == {False}
    assert {module.training for module in backbone.model.modules()} == {training}


def test_the_mode_comes_back_after_an_error_too(backbone: Backbone) -> None:
    def break_down(*_: Any) -> None:
        raise ArithmeticError("broken on purpose")

    backbone.model.train()
    hook = backbone.model.register_forward_pre_hook(break_down)
    with pytest.raises(ArithmeticError):
        generate(backbone, unpadded(), decoding(), stop_ids=[])

    hook.remove()
    assert backbone.model.training


def test_one_request_leaves_nothing_for_the_next(backbone: Backbone) -> None:
    # Another prompt, not the same twice: keys that stayed behind would be its own.
    backbone.slots.acquire()
    states = random_states(backbone, 4)
    backbone.slots.fill(states)
    first, second = (left_padded([random_ids(6, seed)], PAD).with_positions(4) for seed in (1, 2))
    fresh = _first_step(backbone, second)

    generate(backbone, first, decoding(), stop_ids=[])

    torch.testing.assert_close(_first_step(backbone, second), fresh, rtol=0, atol=0)


@torch.no_grad()
def _first_step(backbone: Backbone, inputs: Any) -> torch.Tensor:
    return backbone.logits(inputs)[:, -1]


@pytest.mark.parametrize("prefix_length", [0, 10])
def test_prefix_prompt_and_text_must_fit_the_learned_positions(
    backbone: Backbone, prefix_length: int, request: pytest.FixtureRequest
) -> None:
    prompt = unpadded(1, length=20).with_positions(prefix_length)
    room = MAX_POSITIONS - 20 - prefix_length
    assert len(generate(backbone, prompt, decoding(max_new_tokens=room), stop_ids=[])[0]) == room

    if backbone.has_hard_position_limit:
        with pytest.raises(
            ValueError, match=f"must fit the {MAX_POSITIONS} positions .* but need {MAX_POSITIONS + 1};"
        ):
            generate(backbone, prompt, decoding(max_new_tokens=room + 1), stop_ids=[])
    else:
        assert len(generate(backbone, prompt, decoding(max_new_tokens=room + 1), stop_ids=[])[0]) == room + 1


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3_text", "mistral", "opt"])
@pytest.mark.parametrize("has_prefix", [True, False])
def test_rows_that_have_ended_leave_the_batch_and_change_no_other(
    family: str, has_prefix: bool, tiny_folders: dict[str, Path]
) -> None:
    backbone = load_backbone(str(tiny_folders[family]), name=family, dtype="float32")
    backbone.model.double()
    prompts = padded([random_ids(3 + row % 5, seed=row) for row in range(8)], "left")
    backbone.slots.acquire()
    if has_prefix:
        states = random_states(backbone, 7).to(device=backbone.device, dtype=torch.float64)
        backbone.slots.fill(states)
        prompts = prompts.with_positions(states.position_offset)
    settings = decoding(max_new_tokens=12)
    free = generate(backbone, prompts, settings, stop_ids=[])
    # Tokens that some rows write and others do not: the first rows end, the last ones do not.
    stops = sorted({token for ids in free[:6] for token in ids[2:]} - set(free[7]))
    assert stops
    sizes: list[int] = []
    hook = backbone.model.register_forward_pre_hook(
        lambda model, arguments, named: sizes.append(len(named["input_ids"])), with_kwargs=True
    )

    written = generate(backbone, prompts, settings, stop_ids=stops)

    hook.remove()
    with patch("ptl_prefix.backbones.generation.can_decode_greedily", return_value=False):
        assert written == generate(backbone, prompts, settings, stop_ids=stops)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 8
    assert sizes[-1] <= 6
