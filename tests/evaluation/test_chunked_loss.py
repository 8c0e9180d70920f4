"""Logits in chunks: the same loss and gradients, in less memory."""

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
import torch
from support.toy_batches import packable_pairs
from torch import Tensor
from torch.testing import assert_close

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import Padding
from ptl_prefix.data.collation import collate_training
from ptl_prefix.evaluation import loss
from ptl_prefix.evaluation.chunked_loss import nats_in_chunks
from ptl_prefix.evaluation.loss import target_loss
from ptl_prefix.methods.prefix_tuning import PrefixTuning


@pytest.mark.parametrize("chunk", [1, 3, 7, 20])
def test_the_sum_and_its_gradient_are_those_of_all_positions_at_once(chunk: int) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(7, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 5, generator=generator, dtype=torch.float64)
    labels = torch.tensor([3, -100, 10, 0, 0, -100, 7])
    seen: list[int] = []

    def nats_of(part: Tensor, places: slice) -> Tensor:
        seen.append(len(part))
        return torch.nn.functional.cross_entropy(part @ weight.T, labels[places], reduction="sum")

    whole = torch.nn.functional.cross_entropy(hidden @ weight.T, labels, reduction="sum")
    (wanted,) = torch.autograd.grad(3 * whole, hidden)

    chunked = nats_in_chunks(hidden, chunk, nats_of)
    (found,) = torch.autograd.grad(3 * chunked, hidden)

    assert_close(chunked, whole, rtol=1e-6, atol=0, check_dtype=False)  # summed in float32
    assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    assert max(seen) <= chunk
    assert sum(seen) == 7
    with torch.no_grad():
        assert not nats_in_chunks(hidden, chunk, nats_of).requires_grad


@pytest.fixture
def in_chunks(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes chunks of one position."""

    def shorten() -> None:
        monkeypatch.setattr(loss, "num_positions_in_chunk", lambda vocabulary_size: 1)

    return shorten


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_a_batch_in_chunks_has_the_loss_and_gradients_of_a_batch_at_once(
    backbone: Backbone, in_chunks: Callable[[], None], label_smoothing: float
) -> None:
    method = PrefixTuning(prefix_length=3, reparam="none").attach(backbone)
    batch = collate_training(packable_pairs(), Padding(backbone.pad_id))

    def measured() -> tuple[Tensor, dict[str, Any]]:
        method.zero_grad()
        found = target_loss(backbone, method, batch, label_smoothing=label_smoothing)
        found.nats.backward()  # type: ignore[no-untyped-call]
        return found.nats.detach(), {name: one.grad for name, one in method.trainable_parameters().items()}

    at_once = measured()
    in_chunks()
    with patch.object(Backbone, "target_logits", side_effect=AssertionError("the logits of all positions")):
        chunked = measured()

    assert_close(chunked, at_once, rtol=1e-5, atol=1e-5)


def test_a_backbone_without_a_plain_head_computes_its_logits_at_once(
    backbone: Backbone, in_chunks: Callable[[], None]
) -> None:
    method = PrefixTuning(prefix_length=3, reparam="none").attach(backbone)
    batch = collate_training(packable_pairs(), Padding(backbone.pad_id))
    at_once = target_loss(backbone, method, batch).nats.detach()
    in_chunks()
    backbone.head.requires_grad_(True)

    with patch.object(loss, "nats_in_chunks", side_effect=AssertionError("chunks")):
        again = target_loss(backbone, method, batch).nats.detach()

    assert_close(again, at_once)
