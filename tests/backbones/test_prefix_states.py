"""The noun that training and a router share."""

import pytest
import torch
from support.toy_prefixes import random_states
from torch.testing import assert_close

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.prefix_states import LayerStates, PrefixStates


def _layer(rows: int, length: int = 2) -> LayerStates:
    """Each row's numbers are its index."""
    index = torch.arange(rows, dtype=torch.float32)[:, None, None, None].expand(rows, 1, length, 3)
    return LayerStates(index, -index, torch.ones(rows, length, dtype=torch.bool))


@pytest.mark.parametrize(
    ("rows", "batch", "expected"),
    [(1, 3, [0, 0, 0]), (2, 2, [0, 1]), (2, 6, [0, 0, 0, 1, 1, 1])],
    ids=["one for all", "one each", "three beams each"],
)
def test_rows_of_a_prefix_serve_a_batch(rows: int, batch: int, expected: list[int]) -> None:
    states = _layer(rows).for_rows(batch)

    assert states.key[:, 0, 0, 0].tolist() == expected
    assert states.value[:, 0, 0, 0].tolist() == [-row for row in expected]
    assert states.mask.shape == (batch, 2)


def test_a_batch_that_is_no_multiple_of_the_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of the prefix's 2 rows, but has 3"):
        _layer(2).for_rows(3)


def test_padding_goes_in_front_and_is_invisible() -> None:
    states = _layer(1, length=2).padded(5)

    assert states.length == 5
    assert states.mask.tolist() == [[False, False, False, True, True]]


def test_keys_values_and_mask_must_agree_on_their_axes() -> None:
    with pytest.raises(Exception, match="Type-check error"):
        LayerStates(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, 4), torch.ones(2, 3, dtype=torch.bool))


def test_every_row_of_a_batch_has_an_offset_of_its_own(backbone: Backbone) -> None:
    with pytest.raises(Exception, match="Type-check error"):
        PrefixStates(random_states(backbone, 3).sites, torch.tensor([[3]]))


def test_stacks_of_stacks_keep_the_order_of_rows(backbone: Backbone) -> None:
    a, b, c = (random_states(backbone, length, seed=length) for length in (2, 5, 3))

    nested = PrefixStates.stack([PrefixStates.stack([a, b]), c])

    flat = PrefixStates.stack([a, b, c])
    assert nested.rows == 3
    assert nested.position_offset.tolist() == flat.position_offset.tolist() == [2, 5, 3]
    for one, other in zip(nested.sites["decoder_self"], flat.sites["decoder_self"], strict=True):
        assert one is not None
        assert other is not None
        assert_close((one.key, one.value, one.mask), (other.key, other.value, other.mask))


def test_moving_to_another_dtype_keeps_the_gradient_of_the_master(backbone: Backbone) -> None:
    states = random_states(backbone, 3)
    layer = states.sites["decoder_self"][0]
    assert layer is not None
    layer.key.requires_grad_()

    moved = states.to(device=torch.device("cpu"), dtype=torch.bfloat16).sites["decoder_self"][0]

    assert moved is not None
    assert moved.key.dtype == torch.bfloat16
    moved.key.float().sum().backward()
    assert layer.key.grad is not None
    assert layer.key.grad.dtype == torch.float32
