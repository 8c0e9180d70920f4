"""Early stopping that says when and why it ended a run."""

from collections.abc import Callable

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping


class AnnouncedEarlyStopping(EarlyStopping):
    """Stops after some validations without improvement of `val/loss`, and notifies.

    Args:
        patience: Validations without improvement before training stops.
        min_delta: Smallest decrease that counts as improvement, in nats per token.
        notify: Called with a sentence when the run is stopped.
    """

    def __init__(self, *, patience: int, min_delta: float, notify: Callable[[str], None]) -> None:
        # A non-finite loss is an error here, never a reason to stop early.
        super().__init__("val/loss", patience=patience, min_delta=min_delta, check_finite=False)
        self._notify = notify

    @property
    def state_key(self) -> str:
        """The name in checkpoints, which is that of Lightning's own callback: older runs must resume."""
        return f"EarlyStopping{{'monitor': {self.monitor!r}, 'mode': {self.mode!r}}}"

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the loss as Lightning does, and say so if it ends the run."""
        super().on_validation_end(trainer, pl_module)
        if trainer.should_stop and self.wait_count >= self.patience:
            self._notify(
                f"early stopping at step {trainer.global_step} of {trainer.max_steps}: val/loss has not fallen by more "
                f"than {abs(self.min_delta):g} in {self.wait_count} validation(s) "
                f"(`optimizer.early_stopping_patience`); the best is {float(self.best_score):.4f}"
            )
