"""The losses of several methods in one forward and backward pass over their common frozen backbone.

In: batches, each conditioned by its own method. Out: for each its loss, which carries the gradient of its own prefix:
numbers of its own pass, up to rounding, as no row sees another one. The pass ends at the keys and values of the
prefixes; from there each method's own graph leads to its parameters, when its loss is differentiated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.joined_rows import ConditionedRows, join_rows
from ptl_prefix.evaluation.loss import LossPart, TargetLoss, nats_of_parts


@dataclass(frozen=True)
class LossRequest:
    """A batch whose loss is wanted.

    Args:
        part: The batch and its targets.
        rows: The batch as its method has conditioned it.
        needs_gradient: Whether the loss is differentiated.
    """

    part: LossPart
    rows: ConditionedRows
    needs_gradient: bool

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return self.rows.inputs.num_rows


@dataclass(frozen=True)
class ComputedLoss:
    """The loss of a request, computed together with its gradient.

    Args:
        nats: Sum in nats, without a graph.
        sources: Keys and values of the prefix that have a gradient.
        gradients: The gradient of each of them.
    """

    nats: Tensor
    sources: Sequence[Tensor]
    gradients: Sequence[Tensor]

    def target_loss(self, num_tokens: int) -> TargetLoss:
        """The loss with its gradient. It must be called by the thread that made the request, in its grad mode.

        Args:
            num_tokens: Number of target tokens.
        """
        if not self.sources:
            return TargetLoss(self.nats, num_tokens)
        nats: Tensor = _ComputedGradient.apply(self.nats, self.gradients, *self.sources)  # type: ignore[no-untyped-call]
        return TargetLoss(nats, num_tokens)


def joined_losses(backbone: Backbone, requests: Sequence[LossRequest]) -> list[ComputedLoss]:
    """Compute the losses of requests in one pass; the slots of the backbone are empty afterwards.

    Args:
        backbone: The frozen model of all of them.
        requests: Requests that all need a gradient, or all none; all or none have a layout.
    """
    needs_gradient = requests[0].needs_gradient
    cut = [request.rows.with_leaves() for request in requests]
    with torch.inference_mode(not needs_gradient), torch.set_grad_enabled(needs_gradient):
        joined = join_rows([rows for rows, _, _ in cut])
        joined.fill(backbone.slots)
        try:
            nats = nats_of_parts(backbone, joined.inputs, [request.part for request in requests])
            if needs_gradient:
                torch.stack(nats).sum().backward()  # type: ignore[no-untyped-call]
        finally:
            backbone.slots.clear()
    return [
        ComputedLoss(own.detach(), sources if needs_gradient else (), [_gradient(leaf) for leaf in leaves])
        for own, (_, sources, leaves) in zip(nats, cut, strict=True)
    ]


def _gradient(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


class _ComputedGradient(torch.autograd.Function):
    """A number whose gradient is known."""

    @staticmethod
    def forward(ctx: Any, nats: Tensor, gradients: Sequence[Tensor], *sources: Tensor) -> Tensor:
        ctx.gradients = gradients
        return nats.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *(own * gradients[0].to(own) for own in ctx.gradients))
