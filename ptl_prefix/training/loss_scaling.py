"""Loss scaling for float16: the loss is multiplied before the backward pass, and steps that overflow are skipped.

In: steps of Lightning with `trainer.precision=16-mixed`. Out: the same steps with unscaled gradients. float16 cannot
represent numbers between 0 and 6e-8 or above 65,504: small gradients underflow unless the loss is scaled up, and the
largest possible scale is found by trying, so that some steps are skipped.
"""

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch.optim import Optimizer

from ptl_prefix.errors import NonFiniteLossError

_INITIAL_SCALE = 2.0**10
"""Initial scale. torch's default, 65,536, suits means; our losses are sums over some hundred targets or more."""
_MIN_SCALE = 2.0**-10
"""Scale below which the overflow must have another cause."""


class LossScaling(MixedPrecision):
    """Lightning's mixed precision with torch's gradient scaler, which reports skipped steps and fails at a tiny scale.

    A skipped step counts towards `trainer.max_steps` and its batch is not repeated; trainable parameters, optimizer and
    learning rate stay unchanged. All ranks skip the same steps, as the gradients have been all-reduced before.

    Args:
        device: Type of the backbone's device.
    """

    def __init__(self, device: str) -> None:
        scaler = torch.amp.GradScaler(device, init_scale=_INITIAL_SCALE)
        super().__init__("16-mixed", device, scaler)
        self._scaler = scaler
        self.skipped = False
        """Whether the last step was skipped."""

    @property
    def scale(self) -> float:
        """Factor of the next step's loss."""
        return float(self._scaler.get_scale())

    def optimizer_step(  # type: ignore[override]
        self, optimizer: Optimizer, model: pl.LightningModule, closure: Callable[[], Any], **kwargs: Any
    ) -> Any:
        """Make a step, or skip it.

        Raises:
            NonFiniteLossError: If gradients overflow even at a tiny scale.
        """
        before = self.scale
        result = super().optimizer_step(optimizer, model, closure, **kwargs)
        # torch's scaler lowers the scale after skipped steps only, and reports them in no other way.
        self.skipped = self.scale < before
        if self.scale < _MIN_SCALE:
            raise NonFiniteLossError(
                f"Gradients in float16 must become finite at a lower loss scale, but in step {model.global_step + 1} "
                f"they still overflow at {self.scale:g}; the last good checkpoint is kept. Lower `optimizer.lr`, or "
                "use backbone.dtype=bfloat16 with trainer.precision=32-true."
            )
        return result


def scaling_of(trainer: pl.Trainer) -> LossScaling | None:
    """The trainer's loss scaling; `None` without float16."""
    plugin = trainer.precision_plugin
    return plugin if isinstance(plugin, LossScaling) else None


def is_finite(parameters: list[torch.nn.Parameter]) -> bool:
    """Whether all gradients are finite."""
    return all(bool(torch.isfinite(p.grad).all()) for p in parameters if p.grad is not None)
