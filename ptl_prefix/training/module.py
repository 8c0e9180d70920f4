"""The LightningModule: a frozen backbone, a method, a loss.

In: batches of `ModelInputs`. Out: the method's parameters are trained; validation losses in nats per target token.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim import Optimizer

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.errors import NonFiniteLossError
from ptl_prefix.evaluation.loss import TargetLoss, is_skipped, target_loss
from ptl_prefix.methods.method import Method
from ptl_prefix.training.loss_scaling import is_finite, scaling_of
from ptl_prefix.training.optimization import Optimization
from ptl_prefix.training.ranks import ONE_RANK, Ranks


class AdaptationModule(pl.LightningModule):
    """Trains a method on a frozen backbone.

    A step's loss is the sum over its target tokens divided by their number, counted over all micro-batches of the
    accumulation window and all ranks: gradients are summed, and divided once before the step.

    Args:
        backbone: The frozen model.
        method: Attached to it.
        optimization: Optimizer, schedule and smoothing.
        total_steps: Optimizer steps of the whole run, which the schedule needs.
        ranks: Ranks that train together, each on its share of every batch.
        compute_loss: Computes the loss of a batch; in a pack, together with those of other runs.
    """

    def __init__(
        self,
        backbone: Backbone,
        method: Method,
        optimization: Optimization,
        *,
        total_steps: int,
        ranks: Ranks = ONE_RANK,
        compute_loss: Callable[..., TargetLoss] = target_loss,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.model = backbone.model  # a submodule, so that Lightning moves it with the rest
        self.method = method
        self.optimization = optimization
        self.total_steps = total_steps
        self.ranks = ranks
        self._compute_loss = compute_loss
        self.last_step: dict[str, float] = {}
        self.num_trained_tokens = 0
        self._window = _Sum()
        self._validation = _Sum()

    def training_step(self, batch: ModelInputs, batch_idx: int) -> Tensor:
        """Nats of one micro-batch, not divided by its tokens; 0 for a micro-batch without rows."""
        if is_skipped(self.backbone, batch):
            return torch.zeros((), device=self.device, requires_grad=True)
        smoothing = self.optimization.label_smoothing
        loss = self._compute_loss(self.backbone, self.method, batch, label_smoothing=smoothing)
        self._window.add(loss.nats.detach(), loss.num_tokens)
        # Lightning divides by the number of micro-batches; the division by tokens follows right before the step.
        return loss.nats * self.trainer.accumulate_grad_batches

    def on_after_backward(self) -> None:
        """All-reduce the gradients after the last micro-batch of a step, before they are unscaled or clipped."""
        if (self.trainer.fit_loop.total_batch_idx + 1) % self.trainer.accumulate_grad_batches == 0:
            self.ranks.sum_gradients(self.method.trainable_parameters().values())

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Divide the summed gradients by the step's number of target tokens."""
        nats, tokens = self.ranks.sum(*self._window.take())
        loss = nats / tokens
        self._require_finite(loss)
        self.num_trained_tokens += int(tokens)
        for parameter in self.method.trainable_parameters().values():
            if parameter.grad is not None:
                parameter.grad.mul_(1 / tokens)
        self.last_step = {"train/loss": loss, "lr": optimizer.param_groups[0]["lr"]}

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip by norm or by value, and keep the norm for the log. As in Lightning, a limit of 0 turns clipping off.

        With loss scaling, the gradients have been unscaled before.
        """
        parameters = [p for p in self.method.trainable_parameters().values() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        norm_value = norm.item()
        if not math.isfinite(norm_value) and scaling_of(self.trainer) and not is_finite(parameters):
            return  # the scaler will skip this step
        self._require_finite(norm_value)
        limit = gradient_clip_val or float("inf")
        if gradient_clip_algorithm == "value":
            torch.nn.utils.clip_grad_value_(parameters, limit)
        else:
            torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
        self.last_step["train/grad_norm"] = norm_value

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Update the learning rate, except after a skipped step."""
        scaling = scaling_of(self.trainer)
        if scaling is None or not scaling.skipped:
            super().lr_scheduler_step(scheduler, metric)

    def on_validation_epoch_start(self) -> None:
        """Start a new sum."""
        self._validation = _Sum()

    def validation_step(self, batch: ModelInputs, batch_idx: int) -> None:
        """Add one batch to the sum."""
        if is_skipped(self.backbone, batch):
            return
        loss = self._compute_loss(self.backbone, self.method, batch)
        self._validation.add(loss.nats.detach(), loss.num_tokens)

    def on_validation_epoch_end(self) -> None:
        """`val/loss`: nats per target token of the whole split."""
        nats, tokens = self.ranks.sum(*self._validation.take())
        self._require_finite(nats / tokens, "the validation after step")
        self.log("val/loss", torch.tensor(nats / tokens, dtype=torch.float64))

    def configure_optimizers(self) -> Any:
        """The optimizer of the trainable parameters, and a schedule that is updated after every step."""
        optimizer = self.optimization.optimizer(self.method.lr_groups())
        scheduler = self.optimization.scheduler(optimizer, self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def train(self, mode: bool = True) -> "AdaptationModule":
        """Set the method to Lightning's mode; the backbone keeps the one of `backbone.base_mode`."""
        super().train(mode)
        self.model.train(mode and self.backbone.base_mode == "train")
        # Once more, and last: parts of the method may be submodules of the model.
        self.method.train(mode)
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The method's own tensors alone, so that a checkpoint is small whatever the backbone's size."""
        return {name: tensor.detach() for name, tensor in self.method.checkpoint_tensors().items()}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load trainable parameters.

        Raises:
            RunError: If the names or shapes are not those of this method.
        """
        self.method.load_trainable_parameters(state_dict)
        return torch.nn.modules.module._IncompatibleKeys([], [])

    def transfer_batch_to_device(self, batch: ModelInputs, device: torch.device, dataloader_idx: int) -> ModelInputs:
        """Move a batch, which is of our own type."""
        return batch.to(device)

    def _require_finite(self, value: float, what: str = "step") -> None:
        if not math.isfinite(value):
            step = self.global_step + (what == "step")  # Lightning has not counted the current step yet
            raise NonFiniteLossError(
                f"Losses and gradients must be finite, but {what} {step} gave {value}; "
                "the last good checkpoint is kept. Lower `optimizer.lr`, or set `trainer.gradient_clip_val`."
            )


class _Sum:
    """Sums of nats and tokens; the nats stay on the device until they are read once."""

    def __init__(self) -> None:
        self._nats: list[Tensor] = []
        self._tokens = 0

    def add(self, nats: Tensor, num_tokens: int) -> None:
        self._nats.append(nats)
        self._tokens += num_tokens

    def take(self) -> tuple[float, float]:
        nats = float(torch.stack(self._nats).double().sum()) if self._nats else 0.0
        tokens = float(self._tokens)
        self._nats, self._tokens = [], 0
        return nats, tokens
