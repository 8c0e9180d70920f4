"""A context that is read once: texts are computed after it as after the context itself."""

import pytest
import torch
from support.toy_batches import EQUAL, random_ids
from torch.testing import assert_close

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.context_states import attention_to_context, context_states, reading_problem
from ptl_prefix.backbones.model_inputs import ModelInputs, left_padded
from ptl_prefix.backbones.observed_context import observed_context
from ptl_prefix.methods.given_prefix import GivenPrefix, matched_states

CONTEXT = random_ids(20, seed=1)
TEXTS = [random_ids(9, seed=2), random_ids(5, seed=3)]


def inputs_of(*texts: list[int]) -> ModelInputs:
    return left_padded(texts, pad_id=0)


def test_texts_after_the_states_are_those_after_the_context(backbone: Backbone) -> None:
    wholes = [backbone.logits(inputs_of(CONTEXT + text))[0, len(CONTEXT) :] for text in TEXTS]

    method = GivenPrefix(name="context", states=context_states(backbone, CONTEXT)).attach(backbone)
    logits = backbone.logits(method.condition(inputs_of(*TEXTS)))

    for row, whole in zip(logits, wholes, strict=True):
        assert_close(row[-len(whole) :], whole, **EQUAL)
    geometry = backbone.geometry["decoder_self"]
    assert method.num_stored == 2 * geometry.num_layers * geometry.kv_width * len(CONTEXT)
    method.detach()
    assert_close(backbone.logits(inputs_of(CONTEXT + TEXTS[0]))[0, len(CONTEXT) :], wholes[0], **EQUAL)


def test_what_is_observed_is_what_is_observed_when_texts_read_the_context(backbone: Backbone) -> None:
    found = attention_to_context(backbone, CONTEXT, TEXTS, num_queries=4)

    # There the context ends before any position; here both begin at 0.
    expected = observed_context(backbone, CONTEXT, TEXTS, text_start=len(CONTEXT), num_queries=4)
    for layer, other in zip(found, expected, strict=True):
        assert_close(layer.queries, other.queries, **EQUAL)
        assert_close(layer.keys, other.keys, **EQUAL)
        assert_close(layer.values, other.values, **EQUAL)
        assert layer.scaling == other.scaling
    assert backbone.config._attn_implementation == "sdpa"


@torch.no_grad()
def test_a_context_matched_with_all_of_its_rows_is_the_context(backbone: Backbone) -> None:
    whole = backbone.logits(inputs_of(CONTEXT + TEXTS[0]))[0, len(CONTEXT) :]

    errors = []
    for length in (len(CONTEXT), 4):
        states = matched_states(backbone, CONTEXT, TEXTS, length)
        assert [layer.length for layer in states.sites["decoder_self"] if layer] == [length] * 3
        method = GivenPrefix(name="matched", states=states).attach(backbone)
        errors.append(float((backbone.logits(method.condition(inputs_of(TEXTS[0])))[0] - whole).norm() / whole.norm()))
        method.detach()

    all_rows, few_rows = errors
    assert all_rows < 0.05 < few_rows
    with pytest.raises(ValueError, match="at least as many tokens as rows, but has 20 for 21 rows"):
        matched_states(backbone, CONTEXT, TEXTS, len(CONTEXT) + 1)


@pytest.mark.parametrize(
    ("any_backbone", "reason"),
    [("t5", "is an encoder-decoder"), ("mistral", "has layers with a sliding window"), ("opt", None)],
    indirect=["any_backbone"],
)
def test_a_context_that_cannot_be_read_first_is_named(any_backbone: Backbone, reason: str | None) -> None:
    problem = reading_problem(any_backbone)

    assert problem is None if reason is None else reason in str(problem)
    if reason is not None:
        with pytest.raises(ValueError, match=f"Attention matching needs a context .* but .* {reason}"):
            matched_states(any_backbone, CONTEXT, TEXTS, 4)
