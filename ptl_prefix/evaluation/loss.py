"""The loss: nats over target tokens, from logits that are computed at target positions only.

In: a backbone, a method and a batch. Out: the sum over target tokens and their number, so that whoever adds batches up
(over an accumulation window, over ranks, over a split) can divide once, by all the tokens. A mean of means is another
number.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import IGNORED_LABEL, ModelInputs
from ptl_prefix.backbones.observation import text_for_every_site
from ptl_prefix.methods.method import Method

_TARGETS_MULTIPLE = 32
"""Logits are computed for a multiple of so many positions. A CPU keeps a kernel for every shape that it has met in
bfloat16: without this, a run of some hundred steps held gigabytes of them."""


@dataclass(frozen=True)
class TargetLoss:
    """A sum of negative log-likelihoods.

    Args:
        nats: Their sum, with a gradient.
        num_tokens: Target tokens in it, each example's end included.
    """

    nats: Float[Tensor, ""]
    num_tokens: int


def num_computed_positions(num_targets: int) -> int:
    """At how many positions logits are computed for so many targets."""
    return num_targets + -num_targets % _TARGETS_MULTIPLE


def target_loss(backbone: Backbone, method: Method, batch: ModelInputs, *, label_smoothing: float = 0.0) -> TargetLoss:
    """What `batch` costs the backbone under `method`; without rows nothing, by a forward all the same."""
    batch = batch if batch.num_rows else _nothing_to_predict(backbone)
    # The logits at one position predict the token at the next, so a target is wanted one position earlier.
    next_labels = batch.next_labels  # (batch, written)
    rows, columns = (next_labels != IGNORED_LABEL).nonzero(as_tuple=True)
    num_tokens = rows.numel()
    # Filled up with the first position, whose label is then ignored: kernels are made for one shape, and kept.
    missing = num_computed_positions(num_tokens) - num_tokens
    rows, columns = (nn.functional.pad(index, (0, missing)) for index in (rows, columns))
    targets = next_labels[rows, columns]  # (targets,)
    targets[num_tokens:] = IGNORED_LABEL
    logits = backbone.target_logits(method.condition(batch), (rows, columns))  # (targets, vocabulary)
    nats = nn.functional.cross_entropy(logits.float(), targets, reduction="sum", label_smoothing=label_smoothing)
    return TargetLoss(nats, num_tokens)


def is_skipped(backbone: Backbone, batch: ModelInputs) -> bool:
    """Whether a batch without rows needs no forward: of a sharded backbone all ranks must run equally many."""
    return not batch.num_rows and not backbone.is_sharded


def _nothing_to_predict(backbone: Backbone) -> ModelInputs:
    ids = torch.full((1, 2), backbone.pad_id)
    return text_for_every_site(backbone, ids).replace(
        labels=torch.full_like(ids, IGNORED_LABEL, device=backbone.device)
    )


def mean_loss(
    backbone: Backbone,
    method: Method,
    batches: Iterable[ModelInputs],
    *,
    add_up: Callable[[float, float], Sequence[float]] = lambda nats, tokens: (nats, tokens),
) -> float:
    """Nats per target token over all of `batches`, without dropout.

    Args:
        backbone: The frozen model.
        method: Attached to it.
        batches: What is predicted.
        add_up: Adds the nats and tokens of other processes, if these are only some of the batches.
    """
    total = summed_loss(backbone, method, batches)
    nats, tokens = add_up(float(total.nats), total.num_tokens)
    return nats / tokens


@torch.no_grad()
def summed_loss(backbone: Backbone, method: Method, batches: Iterable[ModelInputs]) -> TargetLoss:
    """What all of `batches` cost, without dropout; in float64."""
    modes = [(module, module.training) for module in (backbone.model, method)]
    for module, _ in modes:
        module.eval()
    try:
        losses = [
            target_loss(backbone, method, batch.to(backbone.device))
            for batch in batches
            if not is_skipped(backbone, batch)
        ]
    finally:
        for module, was_training in modes:
            module.train(was_training)
    nats = [loss.nats.double() for loss in losses] or [torch.zeros((), dtype=torch.float64)]
    return TargetLoss(torch.stack(nats).sum(), sum(loss.num_tokens for loss in losses))
