"""A step of several trials of prefix-tuning on one backbone: in one pass, as a pack computes it, or one after another.

In: a `Setting` and a number of trials. Out: `PackedTrials`. Each trial has a prefix, a batch and an optimizer of its
own. What a pack does besides (`ptl_prefix/training/pack.py`: turns of threads, Lightning's loops) is not part of it.
"""

from dataclasses import replace

import torch

from benchmarks.shapes import random_backbone
from benchmarks.step_builders import Setting, random_batch
from ptl_prefix.backbones.joined_rows import take_conditioned
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.evaluation.joined_loss import LossRequest, joined_losses
from ptl_prefix.evaluation.loss import TargetLoss, loss_part, target_loss
from ptl_prefix.methods.prefix_tuning import PrefixTuning


class PackedTrials:
    """Trials that share a backbone.

    Args:
        setting: Shape, device and batch; trials have prefixes of one to two times its length, as in a search.
        num_trials: Number of trials.
    """

    def __init__(self, setting: Setting, num_trials: int) -> None:
        self._backbone = random_backbone(setting.shape, device=setting.device, dtype=setting.dtype)
        torch.manual_seed(0)
        self._methods = [
            PrefixTuning(prefix_length=setting.prefix_length * (1 + number % 2), reparam="none").attach(self._backbone)
            for number in range(num_trials)
        ]
        self._batches = [self._batch(setting, number) for number in range(num_trials)]
        self._optimizers = [torch.optim.AdamW(one.trainable_parameters().values(), 1e-4) for one in self._methods]

    def _batch(self, setting: Setting, number: int) -> ModelInputs:
        """Rows of a length of their own."""
        return random_batch(replace(setting, target_tokens=setting.target_tokens - number % 4), self._backbone)

    def packed_step(self) -> None:
        """One step of all trials, in one pass over the backbone."""
        for loss, optimizer in zip(self._packed_losses(), self._optimizers, strict=True):
            _step(loss, optimizer)

    def separate_steps(self) -> None:
        """One step of each trial, in a pass of its own."""
        for method, batch, optimizer in zip(self._methods, self._batches, self._optimizers, strict=True):
            _step(target_loss(self._backbone, method, batch), optimizer)

    def losses(self, *, packed: bool) -> list[float]:
        """The loss of each trial in nats per target token, before any step of this call."""
        if packed:
            found = self._packed_losses()
        else:
            pairs = zip(self._methods, self._batches, strict=True)
            found = [target_loss(self._backbone, method, batch) for method, batch in pairs]
        return [float(loss.nats) / loss.num_tokens for loss in found]

    def close(self) -> None:
        """Detach the trials from the backbone."""
        for method in self._methods:
            method.detach()

    def _packed_losses(self) -> list[TargetLoss]:
        requests, counts = [], []
        for method, batch in zip(self._methods, self._batches, strict=True):
            part = loss_part(self._backbone, batch, 0.0)
            rows = take_conditioned(self._backbone.slots, method.condition(part.batch))
            assert rows is not None, "a prefix shares its pass"
            requests.append(LossRequest(part, rows, needs_gradient=True))
            counts.append(part.targets.num_tokens)
        computed = joined_losses(self._backbone, requests)
        return [one.target_loss(count) for one, count in zip(computed, counts, strict=True)]


def _step(loss: TargetLoss, optimizer: torch.optim.Optimizer) -> None:
    (loss.nats / loss.num_tokens).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    optimizer.zero_grad()
