"""Losses of several methods on the same examples, and whether one is worse than another.

In: examples of a split, and methods on one backbone. Out: nats and target tokens of each example; the difference of two
methods' losses with a bootstrap interval over the examples. The pairs are the same for all methods, so what is hard
about an example is hard for each of them, and the difference is told with fewer examples than either loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import IGNORED_LABEL, ModelInputs
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.data.collation import EncodedRow, Teacher, collate_training
from ptl_prefix.evaluation.bootstrap import bootstrap_interval
from ptl_prefix.evaluation.loss import target_positions, teacher_nats
from ptl_prefix.evaluation.metric import Statistics
from ptl_prefix.methods.method import Method


@dataclass(frozen=True)
class LossDifference:
    """The loss of one method minus that of another, in nats per target token.

    Args:
        value: Difference over all examples.
        low: Lower end of the 95% interval.
        high: Upper end of the 95% interval.
    """

    value: float
    low: float
    high: float


@torch.no_grad()
def example_losses(
    backbone: Backbone,
    method: Method,
    pairs: Sequence[EncodedRow],
    prompter: Prompter,
    *,
    batch_size: int,
    teacher: Teacher | None = None,
) -> Statistics:
    """The loss of each example: a row of two numbers, the nats and the target tokens of all its pairs.

    Args:
        backbone: Frozen model.
        method: Method that is attached to it.
        pairs: Encoded pairs, at least one.
        prompter: Encoder of the pairs.
        batch_size: Pairs of one forward pass.
        teacher: Teacher of the pairs' examples, to which the loss is the cross-entropy; `None` is that to the targets.
    """
    was_training = method.training
    method.eval()
    examples = np.array([pair["example"] for pair in pairs])
    rows = np.zeros((int(examples.max()) + 1, 2))
    # The longest first, so that a batch holds little padding, and memory is at its peak at once.
    order = np.argsort([-len(pair["input_ids"]) for pair in pairs], kind="stable")
    try:
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = collate_training([pairs[index] for index in chosen], backbone.padding(prompter), teacher)
            np.add.at(rows, examples[chosen], _row_losses(backbone, method, batch.to(backbone.device)).numpy())
    finally:
        backbone.slots.clear()
        method.train(was_training)
    return rows[rows[:, 1] > 0]


def _row_losses(backbone: Backbone, method: Method, batch: ModelInputs) -> Tensor:
    """Nats and target tokens of each row of a batch, float64."""
    targets = target_positions(batch)
    logits = backbone.target_logits(method.condition(batch), (targets.rows, targets.columns))
    # Positions that only fill up have a loss of 0.
    if batch.teacher is None:
        nats = nn.functional.cross_entropy(logits.float(), targets.labels, reduction="none").double()
    else:
        nats = teacher_nats(logits.float(), batch.teacher, targets).double()
    counts = (targets.labels != IGNORED_LABEL).double()
    losses = torch.zeros(batch.num_rows, 2, dtype=torch.float64, device=nats.device)
    return losses.index_add_(0, targets.rows, torch.stack([nats, counts], dim=1)).cpu()


def loss(rows: Statistics) -> float:
    """The loss over all examples, in nats per target token."""
    return _per_token(rows.sum(axis=0))


def _per_token(total: Statistics) -> float:
    nats, num_tokens = total
    return float(nats / num_tokens)


def loss_difference(rows: Statistics, others: Statistics, *, resamples: int, seed: int) -> LossDifference:
    """The difference of two methods' losses on the same examples.

    Args:
        rows: Losses of one method, by example.
        others: Losses of the other one.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resamples.
    """
    pairs = np.stack([rows[:, 0] - others[:, 0], rows[:, 1]], axis=1)
    low, high = bootstrap_interval(pairs, _per_token, resamples=resamples, seed=seed)
    return LossDifference(loss(pairs), low, high)
