"""Which losses that a pack waits for share a pass over the backbone, and the passes.

In: losses that are waited for. Out: each has its result. A pass grows while its positions, padding and prefixes
included, are no more than those of the largest loss alone or than a few, whichever is more: so memory is bounded by the
largest training, and small batches still fill the device.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.evaluation.joined_loss import ComputedLoss, LossRequest, joined_losses

FULL_PASS = {"cpu": 2**9, "cuda": 2**15}
"""Positions in a pass up to which losses are joined on a device, whatever their size; on others as on the CPU. A matrix
product of fewer rows leaves a GPU idle. On a CPU more rows gain nothing, and their activations cost memory."""
_MOST_PADDING = {"cpu": 1.25}
"""Positions of a pass, divided by those of its losses alone, above which they are not joined: padding costs a CPU as
much as text does. A device without an entry has no limit but that of a pass."""


@dataclass
class PendingLoss:
    """A loss that a training waits for.

    Args:
        backbone: The backbone of the training.
        request: The batch.
        result: The loss, or the error of its pass; `None` until it is computed.
    """

    backbone: Backbone
    request: LossRequest
    result: ComputedLoss | BaseException | None = None


def compute_pending(pending: Sequence[PendingLoss]) -> Iterator[tuple[list[int], float]]:
    """Compute losses, several in one pass where they can share it.

    Args:
        pending: Losses; each gets its result.

    Yields:
        After each pass the indices of its losses, and its seconds.
    """
    for indices in group_losses(pending):
        began = time.perf_counter()
        _compute([pending[index] for index in indices])
        yield indices, time.perf_counter() - began


def group_losses(pending: Sequence[PendingLoss]) -> list[list[int]]:
    """The losses of each pass, by their indices."""
    groups: list[list[int]] = []
    # Neighbours in width need the least padding.
    for index in sorted(range(len(pending)), key=lambda one: pending[one].request.rows.num_columns):
        if groups and _share_a_pass([pending[one] for one in (*groups[-1], index)], pending):
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def _share_a_pass(group: Sequence[PendingLoss], pending: Sequence[PendingLoss]) -> bool:
    if len({_kind(one) for one in group}) > 1:
        return False
    largest = max(_positions([one]) for one in pending if one.backbone is group[0].backbone)
    device = group[0].backbone.device.type
    positions = _positions(group)
    if positions > _MOST_PADDING.get(device, float("inf")) * sum(_positions([one]) for one in group):
        return False
    return positions <= max(largest, FULL_PASS.get(device, FULL_PASS["cpu"]))


def _kind(loss: PendingLoss) -> tuple[int, bool, bool]:
    """What the losses of one pass have in common."""
    request = loss.request
    return id(loss.backbone), request.needs_gradient, request.rows.inputs.layout is None


def _positions(group: Sequence[PendingLoss]) -> int:
    """Positions of a pass, padding and prefixes included."""
    rows = [one.request for one in group]
    return sum(one.num_rows for one in rows) * max(one.rows.num_columns for one in rows)


def _compute(group: Sequence[PendingLoss]) -> None:
    """Compute one pass. If it fails, each loss is computed by itself, so that an error is that of its own training."""
    try:
        results: list[ComputedLoss] = joined_losses(group[0].backbone, [one.request for one in group])
    except Exception as error:
        if len(group) == 1:
            group[0].result = error
            return
        for one in group:
            _compute([one])
        return
    for one, result in zip(group, results, strict=True):
        one.result = result
