"""The loop in which a backbone is pretrained on a CPU: AdamW, a warm-up, half a cosine, bfloat16 where it is native.

In: a model and a callable that gives the loss of the next batch. Out: the trained model, and its loss on the way.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ptl_prefix.backbones.attention_sites import has_native_bfloat16

LOG_EVERY_STEPS = 100

_WARMUP_STEPS, _LAST_SHARE_OF_LR = 200, 0.01


@dataclass(frozen=True)
class LoggedLoss:
    """Training up to a step.

    Args:
        step: Optimizer steps done.
        tokens: Tokens seen.
        loss: Nats per token, the mean over the steps since the last log.
        seconds: Since training began.
    """

    step: int
    tokens: int
    loss: float
    seconds: float


def train(
    model: nn.Module, next_loss: Callable[[], tuple[Tensor, int]], *, steps: int, minutes: float, lr: float
) -> list[LoggedLoss]:
    """Train until `steps` are done, or `minutes` are over; say how far it is every hundred steps.

    Args:
        model: Trained in place, in train mode.
        next_loss: The loss of the next batch and how many tokens it has; called under autocast.
        steps: Optimizer steps.
        minutes: Ends the run before its steps are done; the schedule then ends with them.
        lr: Its peak.
    """
    if steps < 1 or minutes <= 0:
        raise ValueError(f"There must be a step and time to train, but got (steps={steps}, minutes={minutes}).")
    optimizer = torch.optim.AdamW(model.parameters(), lr, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    way = _Way(steps, minutes)
    model.train()
    for step in range(steps):
        progress = way.progress
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = lr * share_of_lr(step, progress)
        with autocast():
            loss, num_tokens = next_loss()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        way.went(loss.item(), num_tokens)
    way.log()
    return way.logged


class _Way:
    """How far a run has come; says so while it goes on."""

    def __init__(self, steps: int, minutes: float) -> None:
        self.logged: list[LoggedLoss] = []
        self._steps, self._limit_s = steps, 60 * minutes
        self._began = time.monotonic()
        self._step, self._tokens = 0, 0
        self._losses: list[float] = []

    @property
    def progress(self) -> float:
        """Share of the run that is done, by steps or by time, whichever ends it first."""
        return max(self._step / self._steps, (time.monotonic() - self._began) / self._limit_s)

    def went(self, loss: float, num_tokens: int) -> None:
        """One step further."""
        self._step += 1
        self._tokens += num_tokens
        self._losses.append(loss)
        if len(self._losses) == LOG_EVERY_STEPS:
            self.log()

    def log(self) -> None:
        """Keep and print the losses since the last time; nothing without any."""
        if not self._losses:
            return
        seconds = time.monotonic() - self._began
        mean = sum(self._losses) / len(self._losses)
        self.logged.append(LoggedLoss(self._step, self._tokens, mean, seconds))
        self._losses.clear()
        left = min((self._steps / self._step - 1) * seconds, self._limit_s - seconds)
        print(
            f"step {self._step}/{self._steps}: {self._tokens / 1e6:.1f}M tokens, loss {mean:.3f}, "
            f"{seconds / 60:.1f} min, {max(left, 0) / 60:.1f} min left",
            flush=True,
        )


def share_of_lr(step: int, progress: float) -> float:
    """A linear warm-up, and half a cosine over the whole run."""
    decay = _LAST_SHARE_OF_LR + (1 - _LAST_SHARE_OF_LR) * 0.5 * (1 + math.cos(math.pi * progress))
    return min(1.0, (step + 1) / _WARMUP_STEPS) * decay


def autocast() -> torch.autocast:
    """bfloat16 where the processor multiplies it natively; the weights stay float32 while they are trained."""
    return torch.autocast("cpu", torch.bfloat16, enabled=has_native_bfloat16(torch.device("cpu")))
