"""float16: the loss is scaled up before the backward, and a step whose gradients then overflow is skipped.

In: steps as Lightning makes them with `trainer.precision=16-mixed`. Out: the same, with gradients scaled down again
before anybody looks at them. float16 holds nothing between 0 and 6e-8, and nothing above 65,504: small gradients are
lost unless they are scaled up, and how far up they can be is found by trying, so that some steps are skipped.
"""

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch.optim import Optimizer

from ptl_prefix.errors import NonFiniteLossError

_FIRST_SCALE = 2.0**10
"""torch's own, 65,536, is for means; here losses are sums over some hundred targets or more."""
_LEAST_SCALE = 2.0**-10
"""Below it something else than the scale is wrong."""


class LossScaling(MixedPrecision):
    """torch's scaler, as Lightning uses it, which says what it did and knows when to give up.

    A skipped step is a step all the same: its batch is not read again, and it counts towards `trainer.max_steps`; what
    is trained, the optimizer and the learning rate stay as they were. All ranks skip the same steps, as gradients have
    been added up before they are looked at.

    Args:
        device: Where the backbone is.
    """

    def __init__(self, device: str) -> None:
        scaler = torch.amp.GradScaler(device, init_scale=_FIRST_SCALE)
        super().__init__("16-mixed", device, scaler)
        self._scaler = scaler
        self.skipped = False
        """Whether the last step was."""

    @property
    def scale(self) -> float:
        """What the next step's loss is multiplied by."""
        return float(self._scaler.get_scale())

    def optimizer_step(  # type: ignore[override]
        self, optimizer: Optimizer, model: pl.LightningModule, closure: Callable[[], Any], **kwargs: Any
    ) -> Any:
        """Make a step, or skip it.

        Raises:
            NonFiniteLossError: When steps are skipped however small the scale becomes.
        """
        before = self.scale
        made = super().optimizer_step(optimizer, model, closure, **kwargs)
        # Smaller after a step that was skipped, and only then: torch's scaler says it in no other way.
        self.skipped = self.scale < before
        if self.scale < _LEAST_SCALE:
            raise NonFiniteLossError(
                f"Gradients in float16 must become finite as the loss scale falls, but in step {model.global_step + 1} "
                f"it is down to {self.scale:g}; the last good checkpoint is kept. Lower `optimizer.lr`, or take "
                "backbone.dtype=bfloat16 with trainer.precision=32-true."
            )
        return made


def scaling_of(trainer: pl.Trainer) -> LossScaling | None:
    """The scaling that is at work, if any."""
    plugin = trainer.precision_plugin
    return plugin if isinstance(plugin, LossScaling) else None


def is_finite(parameters: list[torch.nn.Parameter]) -> bool:
    """Whether every number of every gradient is."""
    return all(bool(torch.isfinite(one.grad).all()) for one in parameters if one.grad is not None)
