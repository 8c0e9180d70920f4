"""Checkpoints: what a run goes on from, and what it is exported from.

Two files: `last.ckpt`, written at every validation and when the user stops the run, and `best.ckpt`, by `val/loss`.
Each holds the trained state, optimizer, scheduler, loops, the batches' position and the random state; never the
backbone.
"""

import random
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch

from ptl_prefix.artifacts.run_folder import RunFolder


class RunStoppedError(Exception):
    """The user asked the run to stop, and its state is saved."""


class Checkpoints(pl.Callback):
    """Writes `last.ckpt` and `best.ckpt`, and turns Ctrl-C and SIGTERM into a saved stop.

    A stop waits for a step to be whole: never inside an accumulation window, and after the validation if one is due.

    Args:
        folder: The run's folder.
        val_check_interval: Training batches between validations.
    """

    def __init__(self, folder: RunFolder, *, val_check_interval: int) -> None:
        self.folder = folder
        self.val_check_interval = val_check_interval
        self.best_loss = float("inf")
        self.best_step = 0
        self.loss: float | None = None
        self.stop_requested: str | None = None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save; keep a copy if it is the best so far."""
        self.loss = float(trainer.callback_metrics["val/loss"])
        is_best = self.loss < self.best_loss
        if is_best:
            self.best_loss, self.best_step = self.loss, trainer.global_step
        # The best first: a run killed in between goes on from the older last one and finds the same best again.
        if is_best:
            trainer.save_checkpoint(self.folder.best)
            _copy_whole(self.folder.best, self.folder.last)
        else:
            trainer.save_checkpoint(self.folder.last)
        self._stop_if_asked()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Save and stop, if the user asked and the step is whole."""
        batches = trainer.fit_loop.total_batch_idx + 1
        validation_is_due = batches % self.val_check_interval == 0 or trainer.should_stop
        if self.stop_requested and batches % trainer.accumulate_grad_batches == 0 and not validation_is_due:
            self.loss = None  # of this step it is not known
            trainer.save_checkpoint(self.folder.last)
            self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if self.stop_requested:
            raise RunStoppedError(self.stop_requested)

    def state_dict(self) -> dict[str, Any]:
        """The validation loss of this checkpoint, if it has one, and which checkpoint is the best."""
        return {"loss": self.loss, "best_loss": self.best_loss, "best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on comparing with the best so far."""
        self.best_loss, self.best_step = state_dict["best_loss"], state_dict["best_step"]


class StopSignals:
    """While this is entered, the first Ctrl-C or SIGTERM asks for a stop; a second Ctrl-C interrupts at once.

    Args:
        on_stop: Called with the signal's name.
    """

    def __init__(self, on_stop: Callable[[str], None]) -> None:
        self._on_stop = on_stop
        self._usual: dict[signal.Signals, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._usual[number] = signal.signal(number, self._handle)

    def __exit__(self, *_: object) -> None:
        for number, usual in self._usual.items():
            signal.signal(number, usual)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._on_stop(signal.Signals(number).name)


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


def _copy_whole(source: Path, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.tmp-copy")
    shutil.copyfile(source, temporary)
    temporary.replace(target)
