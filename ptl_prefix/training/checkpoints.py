"""Checkpoints: what a run goes on from, and what it is exported from.

Two files: `last.ckpt`, written at every validation and when the user stops the run, and `best.ckpt`, by `val/loss`.
Each holds the trained state, optimizer, scheduler, loops, the batches' position and the random state; never the
backbone.
"""

import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.training.stopping import RunStopped, StopSignals


class Checkpoints(pl.Callback):
    """Writes `last.ckpt` and `best.ckpt`, and saves before a stop that the user asked for.

    A stop waits for a step to be whole: never inside an accumulation window, and after the validation if one is due.

    Args:
        folder: The run's folder.
        val_check_interval: Training batches between validations.
        signals: Knows whether the user asked for a stop.
    """

    def __init__(self, folder: RunFolder, *, val_check_interval: int, signals: StopSignals) -> None:
        self.folder = folder
        self.val_check_interval = val_check_interval
        self.signals = signals
        self.best_loss = float("inf")
        self.best_step = 0
        self.loss: float | None = None
        self.training_ended = False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Train no further, if the run was killed after its last validation: early stopping would count it twice."""
        trainer.should_stop = self.training_ended

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save; keep a copy if it is the best so far."""
        self.loss = float(trainer.callback_metrics["val/loss"])
        self.training_ended = trainer.should_stop
        is_best = self.loss < self.best_loss
        if is_best:
            self.best_loss, self.best_step = self.loss, trainer.global_step
        # The best first: a run killed in between goes on from the older last one and finds the same best again.
        if is_best:
            _save(trainer, self.folder.best)
            _copy(self.folder.best, self.folder.last)
        else:
            _save(trainer, self.folder.last)
        self._stop_if_asked()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Save and stop, if the user asked and the step is whole."""
        batches = trainer.fit_loop.total_batch_idx + 1
        validation_is_due = batches % self.val_check_interval == 0 or trainer.should_stop
        if self.signals.requested and batches % trainer.accumulate_grad_batches == 0 and not validation_is_due:
            self.loss = None  # of this step it is not known
            _save(trainer, self.folder.last)
            self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if self.signals.requested:
            raise RunStopped(self.signals.requested)

    def state_dict(self) -> dict[str, Any]:
        """This checkpoint's validation loss, if it has one, which checkpoint is the best, and whether more follow."""
        return {
            "loss": self.loss,
            "best_loss": self.best_loss,
            "best_step": self.best_step,
            "training_ended": self.training_ended,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on comparing with the best so far."""
        self.best_loss, self.best_step = state_dict["best_loss"], state_dict["best_step"]
        self.training_ended = state_dict["training_ended"]


class RandomState(pl.Callback):
    """Carries the random state over a resumption, up to the first batch: whatever set-up draws in between is undone."""

    def __init__(self) -> None:
        self._state: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """The state of every generator that training draws from."""
        state: dict[str, Any] = {"python": random.getstate(), "torch": torch.get_rng_state()}
        if torch.cuda.is_available():
            state["cuda"] = torch.cuda.get_rng_state_all()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember the state for the first batch."""
        self._state = state_dict

    def on_train_batch_start(self, *_: Any) -> None:
        """Put the remembered state back, once."""
        if self._state is not None:
            random.setstate(self._state["python"])
            torch.set_rng_state(self._state["torch"])
            if "cuda" in self._state and torch.cuda.is_available():
                torch.cuda.set_rng_state_all(self._state["cuda"])
            self._state = None


class LastStepIsValidated(pl.Callback):
    """Makes the step at which training ends a validated one, which Lightning leaves out when `max_steps` ends it."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Ask for the end, which validates, instead of running into it."""
        if trainer.global_step >= trainer.max_steps:
            trainer.should_stop = True


def _save(trainer: pl.Trainer, path: Path) -> None:
    # Lightning writes to the system's temporary folder first; from another file system that is a copy, not a rename.
    temporary = _temporary(path)
    trainer.save_checkpoint(temporary)
    os.replace(temporary, path)


def _copy(source: Path, target: Path) -> None:
    temporary = _temporary(target)
    shutil.copyfile(source, temporary)
    os.replace(temporary, target)


def _temporary(path: Path) -> Path:
    """A sibling, always the same one, so that what a killed run left is written over."""
    return path.with_name(f".{path.name}.tmp")
