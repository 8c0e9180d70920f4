"""Early stopping that says when and why it ended a run."""

from collections.abc import Callable

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping

from ptl_prefix.training.selection import GeneratedMetric
from ptl_prefix.training.settings import LOSS


class AnnouncedEarlyStopping(EarlyStopping):
    """Stops after some validations without improvement of the metric that chooses the best checkpoint, and notifies.

    Args:
        patience: Validations without improvement before training stops. One that did not compute the metric is not
            counted.
        min_delta: Smallest change that counts as improvement, in the metric's unit.
        notify: Called with a sentence when the run is stopped.
        metric: Metric that chooses the best checkpoint; `None` is `val/loss`.
    """

    def __init__(
        self, *, patience: int, min_delta: float, notify: Callable[[str], None], metric: GeneratedMetric | None = None
    ) -> None:
        super().__init__(
            LOSS if metric is None else metric.key,
            patience=patience,
            min_delta=min_delta,
            mode="min" if metric is None or metric.info.direction == "minimize" else "max",
            check_finite=False,  # a non-finite loss is an error here, never a reason to stop early
        )
        self._notify, self._metric = notify, metric

    @property
    def state_key(self) -> str:
        """The name in checkpoints, which is that of Lightning's own callback: older runs must resume."""
        return f"EarlyStopping{{'monitor': {self.monitor!r}, 'mode': {self.mode!r}}}"

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the metric as Lightning does, and say so if it ends the run."""
        if self._metric is not None and self._metric.value is None:
            return
        super().on_validation_end(trainer, pl_module)
        if trainer.should_stop and self.wait_count >= self.patience:
            change = "fallen" if self.mode == "min" else "risen"
            self._notify(
                f"early stopping at step {trainer.global_step} of {trainer.max_steps}: {self.monitor} has not {change} "
                f"by more than {abs(self.min_delta):g} in {self.wait_count} validation(s) "
                f"(`optimizer.early_stopping_patience`); the best is {float(self.best_score):.4f}"
            )
