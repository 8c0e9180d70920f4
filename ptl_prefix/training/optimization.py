"""How the trained parameters move: AdamW, a warm-up, a decay, and when to stop early."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from ptl_prefix.settings import settings_from


class Optimization:
    """AdamW (Loshchilov & Hutter, 2019) with a linear warm-up and a linear decay to zero.

    Args:
        lr: Highest learning rate; `None` is the method's own default.
        weight_decay: Decoupled weight decay.
        betas: Adam's two moments.
        warmup_steps: Optimizer steps over which the learning rate rises from zero.
        schedule: `linear` decays to zero at the last step; `constant` stays.
        label_smoothing: Share of a target's probability that is spread over the vocabulary; in the training loss only.
        early_stopping_patience: Validations without a better loss before training stops; `None` is never.
        early_stopping_min_delta: Nats per token that count as better.
    """

    @settings_from("optimizer/adamw")
    def __init__(
        self,
        *,
        lr: Annotated[float, Gt(0), Lt(1e38)] | None,
        weight_decay: Annotated[float, Ge(0)],
        betas: Sequence[Annotated[float, Ge(0), Lt(1)]],
        warmup_steps: Annotated[int, Ge(0)],
        schedule: Literal["linear", "constant"],
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

    def problems(self) -> list[str]:
        """What the types of the settings do not say."""
        if len(self.betas) != 2:
            return [f"`optimizer.betas` must be two numbers, but is {list(self.betas)}."]
        return []

    def optimizer(self, groups: Iterable[tuple[float, Iterable[nn.Parameter]]]) -> AdamW:
        """AdamW over the trained parameters.

        Args:
            groups: What moves, with the learning rate of each group where no `lr` was chosen.
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
        """The learning rate as a share of `lr`, stepped once per optimizer step."""
        return LambdaLR(optimizer, lambda step: self.share_of_lr(step, total_steps))

    def share_of_lr(self, step: int, total_steps: int) -> float:
        """The share of `lr` with which step number `step` (from 0) is taken."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return 1.0
        return max(0.0, (total_steps - step) / max(1, total_steps - self.warmup_steps))
