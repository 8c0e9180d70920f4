"""Optimizer, learning-rate schedule, label smoothing and early stopping."""

import copy
import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal, Self

from annotated_types import Ge, Gt, Lt
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from ptl_prefix.settings import settings_from


class Optimization:
    """AdamW (Loshchilov & Hutter, 2019) with a linear warm-up, and a decay to zero or a constant rate after it.

    Args:
        lr: Peak learning rate; `None` is the method's `default_lr`, or, where keys and values match a teacher, the rate
            for the target tokens of a step.
        weight_decay: Decoupled weight decay.
        betas: Decay rates of Adam's two moments.
        warmup_steps: Optimizer steps over which the learning rate rises linearly from zero.
        schedule: Schedule after the warm-up: `linear` and `cosine` (half a period, Loshchilov & Hutter, 2017) decay to
            zero at the last step, `constant` keeps the peak.
        label_smoothing: Share of a target's probability that is spread over the vocabulary; in the training loss only.
        early_stopping_patience: Validations without improvement of the metric of `training.select_by` before training
            stops; `None` never stops early. Validations that do not compute the metric are not counted.
        early_stopping_min_delta: Smallest improvement that counts, in the unit of that metric: nats per token for
            `val/loss`.
    """

    @settings_from("optimizer/adamw")
    def __init__(
        self,
        *,
        lr: Annotated[float, Gt(0), Lt(1e38)] | None,
        weight_decay: Annotated[float, Ge(0)],
        betas: Sequence[Annotated[float, Ge(0), Lt(1)]],
        warmup_steps: Annotated[int, Ge(0)],
        schedule: Literal["linear", "cosine", "constant"],
        label_smoothing: Annotated[float, Ge(0), Lt(1)],
        early_stopping_patience: Annotated[int, Ge(1)] | None,
        early_stopping_min_delta: Annotated[float, Ge(0)],
    ) -> None:
        self.lr = lr
        self.weight_decay = weight_decay
        self.betas = betas
        self.warmup_steps = warmup_steps
        self.schedule = schedule
        self.label_smoothing = label_smoothing
        self.early_stopping_patience = early_stopping_patience
        self.early_stopping_min_delta = early_stopping_min_delta

    def with_lr(self, lr: float) -> Self:
        """The same with a peak learning rate."""
        changed = copy.copy(self)
        changed.lr = lr
        return changed

    def problems(self) -> list[str]:
        """Problems that the types of the settings do not show."""
        if len(self.betas) != 2:
            return [f"`optimizer.betas` must be two numbers, but is {list(self.betas)}."]
        return []

    @property
    def depends_on_length(self) -> bool:
        """Whether the learning rate of a step depends on the number of steps of the run."""
        return self.schedule != "constant"

    def optimizer(self, groups: Iterable[tuple[float, Iterable[nn.Parameter]]]) -> AdamW:
        """AdamW over groups of trainable parameters.

        Args:
            groups: Parameter groups, each with its learning rate if `lr` is `None`.
        """
        first, second = self.betas
        return AdamW(
            [
                {"params": list(parameters), "lr": default_lr if self.lr is None else self.lr}
                for default_lr, parameters in groups
            ],
            betas=(first, second),
            weight_decay=self.weight_decay,
        )

    def scheduler(self, optimizer: AdamW, total_steps: int) -> LambdaLR:
        """The schedule of the learning rate, updated after every optimizer step."""
        return LambdaLR(optimizer, lambda step: self.share_of_lr(step, total_steps))

    def share_of_lr(self, step: int, total_steps: int) -> float:
        """Learning rate of step number `step` (from 0), as a share of the peak."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return 1.0
        left = max(0.0, (total_steps - step) / max(1, total_steps - self.warmup_steps))
        return left if self.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left))
