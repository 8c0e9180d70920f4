"""Stopping a run by Ctrl-C or SIGTERM without losing a step.

In: signals. Out: `RunStopped`. During training a stop waits until `Checkpoints` has saved a whole step; before and
after training there is nothing to save, and it takes effect at once.
"""

import contextlib
import os
import signal
import threading
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from rich.console import Console

from ptl_prefix.training.ranks import ONE_RANK, Ranks

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class RunStopped(BaseException):
    """The user stopped the run, which can be resumed.

    Args:
        signal_name: Name of the signal.
    """

    def __init__(self, signal_name: str) -> None:
        super().__init__(signal_name)
        self.signal_name = signal_name


class StopSignals(pl.Callback):
    """Inside this context, Ctrl-C and SIGTERM stop the run; a second Ctrl-C does not wait for the end of the step.

    Args:
        console: Console for the announcement that the run waits.
        ranks: Ranks that stop together: the signal may reach them at different steps, or only one of them.
    """

    def __init__(self, console: Console, ranks: Ranks = ONE_RANK) -> None:
        self.requested: str | None = None
        self._console = console
        self._ranks = ranks
        self._is_training = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> None:
        if _is_main_thread():
            self._previous = {number: signal.getsignal(number) for number in SIGNALS}
            self._set_handlers()

    def __exit__(self, *_: object) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        self._previous = {}

    def on_train_start(self, *_: Any) -> None:
        """Let stops wait, and replace Lightning's signal handler, which would end the run in an accumulation window."""
        self._is_training = True
        if self._previous:
            self._set_handlers()

    def on_train_end(self, *_: Any) -> None:
        """Let stops take effect at once again."""
        self._is_training = False

    def agree_on_stop(self) -> str | None:
        """The signal that stops all ranks now, if any of them received one; every rank must call this."""
        number = self._ranks.max(signal.Signals[self.requested].value if self.requested else 0)
        if not number:
            return None  # a signal that arrived since then is handled by the next call
        self.requested = signal.Signals(number).name
        return self.requested

    def request_stop(self) -> None:
        """Stop as by SIGTERM; for threads. Without handlers in the main thread, the run stops after the step."""
        if self._previous:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self.requested = signal.SIGTERM.name

    def _set_handlers(self) -> None:
        for number in SIGNALS:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        is_impatient = self.requested is not None and number == signal.SIGINT
        self.requested = name
        if is_impatient or not self._is_training:
            raise RunStopped(name)
        with contextlib.suppress(RuntimeError):  # the signal interrupted another print
            self._console.print(f"{name}: saving at the end of this step …")


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
