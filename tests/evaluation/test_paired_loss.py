"""Losses by example, and the difference of two methods on the same examples."""

import numpy as np
import pytest
import torch
from support.toy_batches import random_ids

from ptl_prefix import PrefixTuning
from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.data.batches import pair_batches
from ptl_prefix.data.collation import EncodedRow
from ptl_prefix.evaluation.loss import summed_loss
from ptl_prefix.evaluation.paired_loss import example_losses, loss, loss_difference
from ptl_prefix.methods.no_adaptation import NoAdaptation

# Example 1 has two targets; of example 2 no pair fitted.
EXAMPLES = [0, 1, 1, 3]
PAIRS = [
    EncodedRow(input_ids=random_ids(6 + 3 * index, seed=index), num_source_ids=3 + index, example=example)
    for index, example in enumerate(EXAMPLES)
]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_losses_of_examples_add_up_to_the_loss_of_the_split(backbone: Backbone, batch_size: int) -> None:
    torch.manual_seed(0)
    method = PrefixTuning(prefix_length=3, reparam="none", prefix_dropout=0.5).attach(backbone)
    prompter = backbone.prompter(PromptFormat())

    rows = example_losses(backbone, method, PAIRS, prompter, batch_size=batch_size)

    padding = backbone.padding(prompter)
    whole = summed_loss(backbone, method, pair_batches(PAIRS, batch_size=4, padding=padding))
    assert rows[:, 1].tolist() == [3, 5 + 7, 9]
    assert rows[:, 0].sum() == pytest.approx(float(whole.nats), rel=1e-5)
    assert loss(rows) == pytest.approx(float(whole.nats) / whole.num_tokens, rel=1e-5)
    own = summed_loss(backbone, method, pair_batches(PAIRS[1:3], batch_size=4, padding=padding))
    assert rows[1, 0] == pytest.approx(float(own.nats), rel=1e-5)
    assert method.training


def test_an_encoder_decoder_has_losses_of_examples_as_well(encoder_decoder: Backbone) -> None:
    method = NoAdaptation().attach(encoder_decoder)
    prompter = encoder_decoder.prompter(PromptFormat())

    rows = example_losses(encoder_decoder, method, PAIRS, prompter, batch_size=3)

    batches = pair_batches(PAIRS, batch_size=4, padding=encoder_decoder.padding(prompter))
    assert rows[:, 0].sum() == pytest.approx(float(summed_loss(encoder_decoder, method, batches).nats), rel=1e-5)


def test_a_difference_is_told_although_examples_differ_more_than_methods() -> None:
    generator = np.random.default_rng(0)
    others = np.stack([generator.uniform(10, 100, size=60), np.full(60, 10.0)], axis=1)
    rows = others + np.stack([generator.normal(0.5, 0.2, size=60), np.zeros(60)], axis=1)

    found = loss_difference(rows, others, resamples=500, seed=0)

    assert found.value == pytest.approx(loss(rows) - loss(others))
    assert 0.03 < found.low < found.value < found.high < 0.07
    same = loss_difference(others, others, resamples=100, seed=0)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
