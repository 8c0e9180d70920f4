"""The loss: negative log-likelihood of the target tokens, in nats; or, with a teacher, the cross-entropy to it.

A teacher has kept its most likely tokens at each target token, with their log-probabilities. The cross-entropy is the
sum over them of probability times the method's negative log-probability, as in Eyuboglu et al. (2025): what the teacher
has not kept counts nothing, so the loss is a little less than that to its whole distribution.

In: a backbone, a method and a batch. Out: the sum over target tokens and their number. Sums over an accumulation
window, over ranks or over a split are divided once, by the number of all tokens: a mean of batch means would be another
number. Logits are computed at target positions only, and no more of them at once than `_CHUNK_LOGITS`.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import IGNORED_LABEL, ModelInputs, TeacherTargets
from ptl_prefix.backbones.observation import text_for_every_site
from ptl_prefix.evaluation.chunked_loss import nats_in_chunks
from ptl_prefix.methods.method import Method

_TARGETS_MULTIPLE = 32
"""Logits are computed at a multiple of this number of positions. A CPU caches a bfloat16 kernel for every shape:
without the rounding, the kernels of some hundred steps took gigabytes."""


_CHUNK_LOGITS = 2**25
"""Logits that are in memory together: 128 MB in float32, and a few times as much in their loss and its gradient."""


@dataclass(frozen=True)
class TargetLoss:
    """A sum of negative log-likelihoods.

    Args:
        nats: Sum in nats, with a gradient.
        num_tokens: Number of target tokens in it, each example's end included.
    """

    nats: Float[Tensor, ""]
    num_tokens: int


def num_computed_positions(num_targets: int) -> int:
    """The number of positions at which logits are computed for `num_targets` targets."""
    return num_targets + -num_targets % _TARGETS_MULTIPLE


def num_positions_in_chunk(vocabulary_size: int) -> int:
    """The number of positions whose logits are in memory together."""
    return _TARGETS_MULTIPLE * max(1, _CHUNK_LOGITS // vocabulary_size // _TARGETS_MULTIPLE)


def target_loss(backbone: Backbone, method: Method, batch: ModelInputs, *, label_smoothing: float = 0.0) -> TargetLoss:
    """The loss of a batch. A batch without rows has a loss of 0, after a forward pass all the same.

    Raises:
        ValueError: The batch has a teacher, and labels would be smoothed.
    """
    part = loss_part(backbone, batch, label_smoothing)
    (nats,) = nats_of_parts(backbone, method.condition(part.batch), [part])
    return TargetLoss(nats, part.targets.num_tokens)


@dataclass(frozen=True)
class LossPart:
    """Rows of a forward pass whose loss is summed by itself.

    Args:
        batch: The rows before a method conditions them, with their labels.
        targets: The positions whose logits are needed, by row and column of `batch`.
        label_smoothing: Share of a target's probability that is spread over the vocabulary.
    """

    batch: ModelInputs
    targets: "TargetPositions"
    label_smoothing: float

    def nats(self, logits: Float[Tensor, "targets vocabulary"], places: slice = slice(None)) -> Float[Tensor, ""]:
        """The summed nats of some of the targets, from their logits."""
        logits, targets = logits.float(), self.targets.at(places)
        if self.batch.teacher is not None:
            return teacher_nats(logits, self.batch.teacher, targets).sum()
        return nn.functional.cross_entropy(
            logits, targets.labels, reduction="sum", label_smoothing=self.label_smoothing
        )


def loss_part(backbone: Backbone, batch: ModelInputs, label_smoothing: float = 0.0) -> LossPart:
    """A batch as a part of a forward pass, or as the whole of it.

    Raises:
        ValueError: The batch has a teacher, and labels would be smoothed.
    """
    batch = batch if batch.num_rows else _without_targets(backbone)
    if batch.teacher is not None and label_smoothing:
        raise ValueError(f"`label_smoothing` must be 0 with a teacher, but is {label_smoothing}.")
    return LossPart(batch, target_positions(batch), label_smoothing)


def nats_of_parts(backbone: Backbone, inputs: ModelInputs, parts: Sequence[LossPart]) -> list[Float[Tensor, ""]]:
    """The summed nats of each part of one forward pass.

    Args:
        backbone: The frozen model, whose slots hold the prefix of every row.
        inputs: The conditioned rows of all parts, in their order; columns may be added on the right.
        parts: The parts.
    """
    first_rows = itertools.accumulate((part.batch.num_rows for part in parts), initial=0)
    rows = torch.cat([part.targets.rows + first for part, first in zip(parts, first_rows, strict=False)])
    positions = (rows, torch.cat([part.targets.columns for part in parts]))
    lengths = [len(part.targets.rows) for part in parts]
    chunk = num_positions_in_chunk(backbone.config.vocab_size)
    if len(rows) <= chunk or not backbone.has_plain_head:
        logits = backbone.target_logits(inputs, positions)  # (targets, vocabulary)
        return [part.nats(own) for part, own in zip(parts, torch.split(logits, lengths), strict=True)]
    states = backbone.target_states(inputs, positions)  # (targets, width)
    per_part = zip(parts, torch.split(states, lengths), strict=True)
    return [_nats_of_states(backbone, part, own, chunk) for part, own in per_part]


def _nats_of_states(
    backbone: Backbone, part: LossPart, states: Float[Tensor, "targets width"], chunk: int
) -> Float[Tensor, ""]:
    return nats_in_chunks(states, chunk, lambda some, places: part.nats(backbone.head(some), places))


def teacher_nats(
    logits: Float[Tensor, "targets vocabulary"], teacher: TeacherTargets, targets: "TargetPositions"
) -> Float[Tensor, " targets"]:
    """The cross-entropy to the teacher at each position; 0 at positions that only fill up."""
    # A label is one column after the logits that predict it; the last column predicts none.
    columns = (targets.columns + 1).clamp(max=teacher.ids.shape[1] - 1)
    ids, log_probs = teacher.ids[targets.rows, columns], teacher.log_probs[targets.rows, columns]  # (targets, kept)
    is_target = targets.labels != IGNORED_LABEL
    weights = log_probs.exp() * is_target[:, None]
    nats = logits.logsumexp(-1, keepdim=True) - logits.gather(-1, ids)  # (targets, kept)
    return (weights * nats).sum(-1)


@dataclass(frozen=True)
class TargetPositions:
    """The positions of a batch whose logits predict target tokens, filled up to `num_computed_positions`.

    Args:
        rows: Row of each position.
        columns: Column of each position.
        labels: Id that follows each position; `IGNORED_LABEL` at positions that only fill up.
        num_tokens: Number of target tokens.
    """

    rows: Int[Tensor, " targets"]
    columns: Int[Tensor, " targets"]
    labels: Int[Tensor, " targets"]
    num_tokens: int

    def at(self, places: slice) -> "TargetPositions":
        """Some of the positions; the number of target tokens stays that of all."""
        return TargetPositions(self.rows[places], self.columns[places], self.labels[places], self.num_tokens)


def target_positions(batch: ModelInputs) -> TargetPositions:
    """The positions at which the logits of a batch are needed."""
    # The logits at one position predict the token at the next, so a target's logits are one position earlier.
    next_labels = batch.next_labels  # (batch, written)
    rows, columns = (next_labels != IGNORED_LABEL).nonzero(as_tuple=True)
    num_tokens = rows.numel()
    # Filled up with the first position, whose label is then ignored.
    missing = num_computed_positions(num_tokens) - num_tokens
    rows, columns = (nn.functional.pad(index, (0, missing)) for index in (rows, columns))
    labels = next_labels[rows, columns]
    labels[num_tokens:] = IGNORED_LABEL
    return TargetPositions(rows, columns, labels, num_tokens)


def is_skipped(backbone: Backbone, batch: ModelInputs) -> bool:
    """Whether a batch has no rows and is skipped; the ranks of a sharded backbone must run equally many forwards."""
    return not batch.num_rows and not backbone.is_sharded


def _without_targets(backbone: Backbone) -> ModelInputs:
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
    """The loss in nats per target token over all batches, without dropout.

    Args:
        backbone: Frozen model.
        method: Method that is attached to it.
        batches: Batches with labels.
        add_up: Callback that adds the nats and tokens of all ranks, if `batches` are one rank's share.
    """
    total = summed_loss(backbone, method, batches)
    nats, tokens = add_up(float(total.nats), total.num_tokens)
    return nats / tokens


@torch.no_grad()
def summed_loss(backbone: Backbone, method: Method, batches: Iterable[ModelInputs]) -> TargetLoss:
    """The summed loss of all batches, without dropout, in float64."""
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
