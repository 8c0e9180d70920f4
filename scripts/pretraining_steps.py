"""The training loop of pretraining on a CPU: AdamW, linear warm-up, cosine decay, and bfloat16 if it is native.

In: a model, and a callable that returns the loss of the next batch. Out: the trained model, and its logged losses.
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
    """A logged training loss.

    Args:
        step: Optimizer steps completed.
        tokens: Tokens trained on.
        loss: Nats per token, averaged over the steps since the last log.
        seconds: Seconds since training started.
    """

    step: int
    tokens: int
    loss: float
    seconds: float


def train(
    model: nn.Module, next_loss: Callable[[], tuple[Tensor, int]], *, steps: int, minutes: float, lr: float
) -> list[LoggedLoss]:
    """Train for `steps` steps or `minutes` minutes, and print the progress every 100 steps.

    Args:
        model: Model that is trained in place, in train mode.
        next_loss: Returns the loss of the next batch and its number of tokens; called under autocast.
        steps: Optimizer steps.
        minutes: Time limit; the schedule ends with it if it comes first.
        lr: Peak learning rate.
    """
    if steps < 1 or minutes <= 0:
        raise ValueError(f"`steps >= 1` and `minutes > 0` must hold, but got (steps={steps}, minutes={minutes}).")
    optimizer = torch.optim.AdamW(model.parameters(), lr, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    progress = _Progress(steps, minutes)
    model.train()
    for step in range(steps):
        share = progress.share
        if share >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = lr * share_of_lr(step, share)
        with autocast():
            loss, num_tokens = next_loss()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        progress.advance(loss.item(), num_tokens)
    progress.log()
    return progress.logged


class _Progress:
    """Tracks and prints the progress of a run."""

    def __init__(self, steps: int, minutes: float) -> None:
        self.logged: list[LoggedLoss] = []
        self._steps, self._limit_s = steps, 60 * minutes
        self._start = time.monotonic()
        self._step, self._tokens = 0, 0
        self._losses: list[float] = []

    @property
    def share(self) -> float:
        """Completed share of the run, by steps or by time, whichever is larger."""
        return max(self._step / self._steps, (time.monotonic() - self._start) / self._limit_s)

    def advance(self, loss: float, num_tokens: int) -> None:
        """Record one step."""
        self._step += 1
        self._tokens += num_tokens
        self._losses.append(loss)
        if len(self._losses) == LOG_EVERY_STEPS:
            self.log()

    def log(self) -> None:
        """Log and print the mean loss since the last log, if there were steps."""
        if not self._losses:
            return
        seconds = time.monotonic() - self._start
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
    """The learning rate as a share of its peak: linear warm-up, and cosine decay over the whole run."""
    decay = _LAST_SHARE_OF_LR + (1 - _LAST_SHARE_OF_LR) * 0.5 * (1 + math.cos(math.pi * progress))
    return min(1.0, (step + 1) / _WARMUP_STEPS) * decay


def autocast() -> torch.autocast:
    """Autocast to bfloat16 if the CPU multiplies it natively; weights stay float32 during training."""
    return torch.autocast("cpu", torch.bfloat16, enabled=has_native_bfloat16(torch.device("cpu")))
