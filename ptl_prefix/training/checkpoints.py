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
from ptl_prefix.training.ranks import ONE_RANK, Ranks
from ptl_prefix.training.stopping import RunStopped, StopSignals


class RandomState(pl.Callback):
    """Carries the random state over a resumption, up to the first batch: whatever set-up draws in between is undone.

    Ranks draw each from their own state. One that a checkpoint has no state of, as there were fewer when it was
    written, begins with a new one.

    Args:
        ranks: Whose states these are.
    """

    def __init__(self, ranks: Ranks = ONE_RANK) -> None:
        self._ranks = ranks
        self._states: list[dict[str, Any]] = []
        self._loaded: list[dict[str, Any]] = []

    def collect(self) -> None:
        """Bring the states of all ranks together for the next checkpoint; all of them must call this."""
        self._states = self._ranks.all(_random_state())

    def state_dict(self) -> dict[str, Any]:
        """The states that were collected."""
        return {"of_ranks": self._states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember the states for the first batch."""
        self._loaded = state_dict["of_ranks"]

    def on_train_start(self, *_: Any) -> None:
        """Have later ranks draw other numbers than the first, as their rows are others."""
        if not self._ranks.is_first:
            torch.manual_seed(torch.initial_seed() + self._ranks.share.rank)

    def on_train_batch_start(self, *_: Any) -> None:
        """Put this rank's state back, once."""
        if self._ranks.share.rank < len(self._loaded):
            _put_back(self._loaded[self._ranks.share.rank])
        self._loaded = []


def _random_state() -> dict[str, Any]:
    """The state of every generator that training draws from."""
    state: dict[str, Any] = {"python": random.getstate(), "torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def _put_back(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


class Checkpoints(pl.Callback):
    """Writes `last.ckpt` and `best.ckpt`, and saves before a stop that the user asked for.

    A stop waits for a step to be whole: never inside an accumulation window, and after the validation if one is due.
    All ranks come to the same decisions, and the first one writes.

    Args:
        folder: The run's folder.
        val_check_interval: Training batches between validations.
        signals: Knows whether the user asked for a stop.
        random_state: What a checkpoint needs of every rank.
        ranks: Who trains together.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        val_check_interval: int,
        signals: StopSignals,
        random_state: RandomState,
        ranks: Ranks = ONE_RANK,
    ) -> None:
        self.folder = folder
        self.val_check_interval = val_check_interval
        self.signals = signals
        self.random_state, self.ranks = random_state, ranks
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
        self._save_for_all(trainer, self.folder.best if is_best else self.folder.last)
        if is_best and self.ranks.is_first:
            _copy(self.folder.best, self.folder.last)
        if asked := self.signals.agreed():
            raise RunStopped(asked)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Save and stop, if the user asked and the step is whole."""
        batches = trainer.fit_loop.total_batch_idx + 1
        validation_is_due = batches % self.val_check_interval == 0 or trainer.should_stop
        asked = self.signals.agreed()
        if asked and batches % trainer.accumulate_grad_batches == 0 and not validation_is_due:
            self.loss = None  # of this step it is not known
            self._save_for_all(trainer, self.folder.last)
            raise RunStopped(asked)

    def _save_for_all(self, trainer: pl.Trainer, path: Path) -> None:
        self.random_state.collect()
        if self.ranks.is_first:
            _save(trainer, path)

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
