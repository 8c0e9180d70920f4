"""Checkpoints, from which a run is resumed and exported.

In: Lightning's trainer and the run folder. Out: `last.ckpt`, written at every validation and when the user stops the
run; `best.ckpt`, the one with the lowest `val/loss` or the best metric of `training.select_by`; and older ones, if
`training.keep_last` is above 1. Each holds the trainable parameters and the states of optimizer, scheduler, loops,
batches and random generators, but never the backbone.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from ptl_prefix.artifacts.atomic import write_file_atomically
from ptl_prefix.artifacts.checkpoint_file import read_checkpoint, write_checkpoint
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.training.kept_checkpoints import KeptCheckpoints, copy_checkpoint
from ptl_prefix.training.random_state import random_state, restore_random_state
from ptl_prefix.training.ranks import ONE_RANK, Ranks
from ptl_prefix.training.selection import GeneratedMetric
from ptl_prefix.training.stopping import RunStopped, StopSignals


class RandomState(pl.Callback):
    """Restores the random state of a checkpoint right before the first batch, whatever set-up has drawn by then.

    Each rank has its own state. A rank that the checkpoint has no state of, as there were fewer ranks, starts with a
    new one.

    Args:
        ranks: Ranks that train together.
    """

    def __init__(self, ranks: Ranks = ONE_RANK) -> None:
        self._ranks = ranks
        self._states: list[dict[str, Any]] = []
        self._loaded: list[dict[str, Any]] = []

    def collect(self) -> None:
        """Gather the states of all ranks for the next checkpoint; every rank must call this."""
        self._states = self._ranks.gather(random_state())

    def state_dict(self) -> dict[str, Any]:
        """The gathered states."""
        return {"of_ranks": self._states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the states until the first batch."""
        self._loaded = state_dict["of_ranks"]

    def on_train_start(self, *_: Any) -> None:
        """Give each further rank a seed of its own, as its rows are others."""
        if not self._ranks.is_rank_zero:
            torch.manual_seed(torch.initial_seed() + self._ranks.share.rank)

    def on_train_batch_start(self, *_: Any) -> None:
        """Restore this rank's state, once."""
        if self._ranks.share.rank < len(self._loaded):
            restore_random_state(self._loaded[self._ranks.share.rank])
        self._loaded = []


class Checkpoints(pl.Callback):
    """Writes `last.ckpt` and `best.ckpt`, and saves when the user stops the run.

    A stop waits for the end of the step: it never comes inside an accumulation window, and after the validation if one
    is due. All ranks decide the same, and rank 0 writes.

    Args:
        folder: Run folder.
        val_check_interval: Training batches between validations.
        signals: Requests to stop.
        random_state: Random states of the ranks.
        ranks: Ranks that train together.
        keep_last: Number of newest checkpoints that are kept, `last.ckpt` included.
        metric: Metric that chooses the best checkpoint; `None` is `val/loss`.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        val_check_interval: int,
        signals: StopSignals,
        random_state: RandomState,
        ranks: Ranks = ONE_RANK,
        keep_last: int = 1,
        metric: GeneratedMetric | None = None,
    ) -> None:
        self.folder = folder
        self.val_check_interval = val_check_interval
        self.signals = signals
        self.random_state, self.ranks = random_state, ranks
        self.kept, self.metric = KeptCheckpoints(folder, keep_last), metric
        self.best_loss = float("inf")
        """The validation loss of the best checkpoint."""
        self.best_step = 0
        self.loss: float | None = None
        self.training_ended = False
        self.ended_at: int | None = None
        """The number of steps of the run, if it ended there and not by early stopping."""
        self._loaded_step: int | None = None
        self._last_step: int | None = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End training if it ended already and was not prolonged: early stopping would count that validation twice."""
        is_prolonged = self.ended_at is not None and self.ended_at < trainer.max_steps
        trainer.should_stop = self.training_ended and not is_prolonged

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save, and copy the checkpoint if it is the best so far."""
        if self.ranks.is_rank_zero:
            self.folder.require_in_place()
        self.loss = float(trainer.callback_metrics["val/loss"])
        self.training_ended = trainer.should_stop
        self.ended_at = trainer.global_step if trainer.global_step >= trainer.max_steps else None
        is_best = self.loss < self.best_loss if self.metric is None else self.metric.is_best
        if is_best:
            self.best_loss, self.best_step = self.loss, trainer.global_step
        self._save_for_all(trainer, is_best=is_best)
        if signal_name := self.signals.agree_on_stop():
            raise RunStopped(signal_name)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Save and stop, if the user requested it and the step is complete."""
        batches = trainer.fit_loop.total_batch_idx + 1
        validation_is_due = batches % self.val_check_interval == 0 or trainer.should_stop
        signal_name = self.signals.agree_on_stop()
        if signal_name and batches % trainer.accumulate_grad_batches == 0 and not validation_is_due:
            self.loss = None  # unknown at this step
            self._save_for_all(trainer, is_best=False)
            raise RunStopped(signal_name)

    def _save_for_all(self, trainer: pl.Trainer, *, is_best: bool) -> None:
        """Write the newest checkpoint on rank 0, and then remove those that are no longer kept."""
        self.random_state.collect()
        if not self.ranks.is_rank_zero:
            return
        # The best comes first: a run killed in between resumes from the older last one and finds the best again.
        if is_best:
            _save(trainer, self.folder.best)
        self.kept.keep(self._last_step, before=trainer.global_step)
        if is_best:
            copy_checkpoint(self.folder.best, self.folder.last)
        else:
            _save(trainer, self.folder.last)
        self._last_step = trainer.global_step
        self.kept.remove_others(newest=trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """The validation loss of this checkpoint, if known; the best one; and whether training has ended."""
        return {
            "loss": self.loss,
            "best_loss": self.best_loss,
            "best_step": self.best_step,
            "training_ended": self.training_ended,
            "ended_at": self.ended_at,
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the step of `last.ckpt`, at which a run of an older version ended: its checkpoints lack `ended_at`."""
        self._last_step = int(checkpoint["global_step"])
        self._loaded_step = None if stopped_early(checkpoint) else self._last_step

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best loss and step."""
        self.best_loss, self.best_step = state_dict["best_loss"], state_dict["best_step"]
        self.training_ended = state_dict["training_ended"]
        self.ended_at = state_dict.get("ended_at", self._loaded_step)


def stopped_early(checkpoint: Mapping[str, Any]) -> bool:
    """Whether early stopping had ended the run of a checkpoint."""
    callbacks = checkpoint["callbacks"]
    if not callbacks.get(Checkpoints.__name__, {}).get("training_ended"):
        return False
    return any(one["wait_count"] >= one["patience"] for one in callbacks.values() if "wait_count" in one)


class LastStepIsValidated(pl.Callback):
    """Validates after the last step, which Lightning leaves out when `max_steps` ends training."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Request the end of training, which validates first."""
        if trainer.global_step >= trainer.max_steps:
            trainer.should_stop = True


class CheckpointFiles(TorchCheckpointIO):
    """Lightning's reader and writer of checkpoints, by the rules of `checkpoint_file`.

    Lightning's own writes to the system's temporary folder first, where a killed run would leave gigabytes.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint straight to its path."""
        write_checkpoint(Path(path), checkpoint)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint that is whole."""
        return read_checkpoint(path)


def _save(trainer: pl.Trainer, path: Path) -> None:
    with write_file_atomically(path) as temporary:
        trainer.save_checkpoint(temporary)
