"""Hidden states at some positions, from which the LM head makes the logits."""

import torch
from support.toy_batches import EQUAL, padded, texts
from torch.testing import assert_close

from ptl_prefix.backbones.backbone import Backbone


@torch.no_grad()
def test_the_head_alone_makes_the_logits_where_a_backbone_says_so(any_backbone: Backbone) -> None:
    batch = padded(texts(), "right", any_backbone)
    positions = (torch.tensor([0, 2, 1, 1]), torch.tensor([4, 1, 0, 2]))

    states = any_backbone.target_states(batch, positions)

    logits = any_backbone.target_logits(batch, positions)
    assert states.shape == (4, any_backbone.head.in_features)
    if any_backbone.has_plain_head:
        assert_close(any_backbone.head(states), logits, **EQUAL)
    else:
        assert any_backbone.is_encoder_decoder or any_backbone.config.final_logit_softcapping


def test_a_head_that_is_trained_is_not_plain(backbone: Backbone) -> None:
    assert backbone.has_plain_head

    backbone.model.get_output_embeddings().requires_grad_(True)  # type: ignore[operator]

    assert not backbone.has_plain_head
