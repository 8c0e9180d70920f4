"""Which losses of a pack share a pass."""

from collections.abc import Sequence

import pytest
import torch
from support.tiny_runs import TinyRuns
from torch import Tensor

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.joined_rows import ConditionedRows
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.evaluation.joined_loss import ComputedLoss, LossRequest
from ptl_prefix.evaluation.loss import loss_part
from ptl_prefix.training import joined_passes
from ptl_prefix.training.joined_passes import PendingLoss, compute_pending, group_losses


@pytest.fixture(scope="module")
def backbone(tiny_runs: TinyRuns) -> Backbone:
    return tiny_runs.backbone()


def pending(backbone: Backbone, rows: int, columns: int, *, needs_gradient: bool = True) -> PendingLoss:
    ids = torch.full((rows, columns), 5)
    batch = ModelInputs(ids, torch.ones_like(ids), labels=ids)
    rows = ConditionedRows(batch, {site: (None,) * shape.num_layers for site, shape in backbone.geometry.items()})
    return PendingLoss(backbone, LossRequest(loss_part(backbone, batch), rows, needs_gradient))


def groups(sizes: Sequence[tuple[int, int]], backbone: Backbone) -> list[set[int]]:
    return [set(group) for group in group_losses([pending(backbone, *size) for size in sizes])]


def test_losses_are_joined_up_to_a_full_pass_or_the_largest_loss(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(joined_passes.FULL_PASS, "cpu", 100)

    assert groups([(2, 10), (3, 10), (5, 10)], backbone) == [{0, 1, 2}]
    assert groups([(4, 2), (4, 5)], backbone) == [{0}, {1}], "too much would be padding"
    assert groups([(2, 10), (3, 10), (6, 10)], backbone) == [{0, 1}, {2}]
    assert groups([(2, 10), (3, 10), (5, 11)], backbone) == [{0, 1}, {2}], "padding counts"
    assert groups([(30, 10), (15, 10), (15, 10)], backbone) == [{0}, {1, 2}], "as large as the largest"


def test_training_and_validation_and_other_backbones_share_no_pass(backbone: Backbone, tiny_runs: TinyRuns) -> None:
    others = [
        pending(backbone, 2, 8),
        pending(backbone, 2, 8, needs_gradient=False),
        pending(tiny_runs.backbone(), 2, 8),
    ]

    assert group_losses(others) == [[0], [1], [2]]


def test_an_error_of_a_joined_pass_is_that_of_the_loss_that_causes_it(backbone: Backbone) -> None:
    losses = [pending(backbone, 2, 8, needs_gradient=False) for _ in range(3)]
    losses[1].request.rows.inputs.input_ids[0, 0] = 7

    def refuse(_: object, arguments: object, keywords: dict[str, Tensor]) -> None:
        if bool((keywords["input_ids"] == 7).any()):
            raise RuntimeError("out of memory")

    hook = backbone.model.register_forward_pre_hook(refuse, with_kwargs=True)
    try:
        list(compute_pending(losses))
    finally:
        hook.remove()

    results = [one.result for one in losses]
    assert [type(result) for result in results] == [ComputedLoss, RuntimeError, ComputedLoss]
