"""The frozen model: positions, and logits where they are wanted."""

import pytest
import torch
from support.toy_batches import EQUAL, Side, padded, random_ids, text_logits, texts, unpadded
from torch import Tensor
from torch.testing import assert_close

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import left_padded


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_moves_no_text_from_its_position(backbone: Backbone, side: Side) -> None:
    alone = [backbone.model(torch.tensor([text])).logits[0] for text in texts()]

    assert_close(text_logits(backbone, padded(texts(), side)), alone, **EQUAL)


def test_the_bare_forward_is_the_library_s_own(backbone: Backbone) -> None:
    inputs = unpadded()

    assert torch.equal(backbone.logits(inputs), backbone.model(**_library_names(inputs)).logits)


def _library_names(inputs: object) -> dict[str, Tensor]:
    return {name: value for name, value in vars(inputs).items() if isinstance(value, Tensor)}


def test_target_logits_are_the_full_logits_at_the_given_positions(backbone: Backbone) -> None:
    inputs = padded(texts(), "right")
    wanted = inputs.attention_mask.bool().clone()
    wanted[:, ::2] = False

    assert_close(backbone.target_logits(inputs, wanted), backbone.logits(inputs)[wanted], **EQUAL)


def test_target_logits_may_be_asked_for_as_a_slice(backbone: Backbone) -> None:
    inputs = unpadded()
    last = (slice(None), slice(-1, None))

    assert_close(backbone.target_logits(inputs, last), backbone.logits(inputs)[:, -1:], **EQUAL)


def test_the_lm_head_receives_the_given_positions_only_and_keeps_no_hook(backbone: Backbone) -> None:
    inputs = unpadded(2, length=6)
    wanted = torch.zeros(2, 6, dtype=torch.bool)
    wanted[0, 1] = wanted[1, 4] = wanted[1, 5] = True
    head, seen = backbone.model.get_output_embeddings(), []
    recorder = head.register_forward_hook(lambda module, arguments, output: seen.append(arguments[0].shape))

    backbone.target_logits(inputs, wanted)
    backbone.logits(inputs)

    recorder.remove()
    assert seen == [(3, 32), (2, 6, 32)]
    assert not head._forward_pre_hooks


def test_the_lm_head_keeps_no_hook_after_an_error(backbone: Backbone) -> None:
    with pytest.raises(IndexError):
        backbone.target_logits(unpadded(2, length=6), torch.ones(2, 7, dtype=torch.bool))

    assert not backbone.model.get_output_embeddings()._forward_pre_hooks


def test_gradients_at_the_given_positions_are_those_of_the_full_logits(backbone: Backbone) -> None:
    inputs = unpadded()
    wanted = torch.rand(inputs.input_ids.shape, generator=torch.Generator().manual_seed(0)) > 0.5
    embeddings = backbone.model.get_input_embeddings().weight.requires_grad_()

    backbone.target_logits(inputs, wanted).logsumexp(-1).sum().backward()
    partial, embeddings.grad = embeddings.grad, None
    backbone.logits(inputs)[wanted].logsumexp(-1).sum().backward()

    assert partial is not None
    assert embeddings.grad is not None
    assert_close(partial, embeddings.grad, **EQUAL)


def test_a_position_past_the_learned_ones_is_an_error_only_where_they_are_learned(backbone: Backbone) -> None:
    inputs = left_padded([random_ids(4, seed=0)], backbone.pad_id).with_positions(61)

    if backbone.has_hard_position_limit:
        with pytest.raises(IndexError):
            backbone.logits(inputs)
    else:
        assert backbone.logits(inputs).isfinite().all()
    assert backbone.max_positions == 64
