"""The loss: nats over target tokens, from logits that are computed at target positions only.

In: a backbone, a method and a batch. Out: the sum over target tokens and their number, so that whoever adds batches up
(over an accumulation window, over ranks, over a split) can divide once, by all the tokens. A mean of means is another
number.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import IGNORED_LABEL, ModelInputs
from ptl_prefix.methods.method import Method


@dataclass(frozen=True)
class TargetLoss:
    """A sum of negative log-likelihoods.

    Args:
        nats: Their sum, with a gradient.
        num_tokens: Target tokens in it, each example's end included.
    """

    nats: Float[Tensor, ""]
    num_tokens: int


def target_loss(backbone: Backbone, method: Method, batch: ModelInputs, *, label_smoothing: float = 0.0) -> TargetLoss:
    """What `batch` costs the backbone under `method`."""
    assert batch.labels is not None
    # The logits at one position predict the token at the next, so a target is wanted one position earlier.
    next_labels = nn.functional.pad(batch.labels[:, 1:], (0, 1), value=IGNORED_LABEL)  # (batch, text)
    wanted = next_labels != IGNORED_LABEL
    targets = next_labels[wanted]  # (targets,)
    logits = backbone.target_logits(method.condition(batch), wanted)  # (targets, vocabulary)
    nats = nn.functional.cross_entropy(logits.float(), targets, reduction="sum", label_smoothing=label_smoothing)
    return TargetLoss(nats, targets.numel())


@torch.no_grad()
def mean_loss(backbone: Backbone, method: Method, batches: Iterable[ModelInputs]) -> float:
    """Nats per target token over all of `batches`."""
    losses = [target_loss(backbone, method, batch.to(backbone.device)) for batch in batches]
    return float(sum(loss.nats.double() for loss in losses)) / sum(loss.num_tokens for loss in losses)
