"""How a run is stopped: Ctrl-C and SIGTERM ask for it, and are heard where nothing is lost.

In: signals. Out: `RunStopped`. While batches are trained a stop waits for `Checkpoints` to save a whole step; before
and after that there is nothing to save, and it comes at once.
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
    """The user asked the run to stop, and can go on with it.

    Args:
        signal_name: What asked.
    """

    def __init__(self, signal_name: str) -> None:
        super().__init__(signal_name)
        self.signal_name = signal_name


class StopSignals(pl.Callback):
    """While this is entered, Ctrl-C and SIGTERM stop the run; a second Ctrl-C does not wait for the step's end.

    Args:
        console: Where the wait is announced.
        ranks: Who stops together: the signal may reach them at different steps, or only one of them.
    """

    def __init__(self, console: Console, ranks: Ranks = ONE_RANK) -> None:
        self.requested: str | None = None
        self._console = console
        self._ranks = ranks
        self._is_training = False
        self._usual: dict[signal.Signals, Any] = {}

    def __enter__(self) -> None:
        if _is_main_thread():
            self._usual = {number: signal.getsignal(number) for number in SIGNALS}
            self._listen()

    def __exit__(self, *_: object) -> None:
        for number, usual in self._usual.items():
            signal.signal(number, usual)
        self._usual = {}

    def on_train_start(self, *_: Any) -> None:
        """Stops wait from here on. Lightning has put a handler of its own, which would end the run inside a window."""
        self._is_training = True
        if self._usual:
            self._listen()

    def on_train_end(self, *_: Any) -> None:
        """Stops need not wait any more."""
        self._is_training = False

    def agreed(self) -> str | None:
        """The signal that stops all ranks now, if one of them was asked; all of them must call this."""
        number = self._ranks.largest(signal.Signals[self.requested].value if self.requested else 0)
        if not number:
            return None  # a signal that has come since is heard the next time
        self.requested = signal.Signals(number).name
        return self.requested

    def request_stop(self) -> None:
        """Stop as SIGTERM does, asked for by a thread. Without a main thread that listens, at the next step's end."""
        if self._usual:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self.requested = signal.SIGTERM.name

    def _listen(self) -> None:
        for number in SIGNALS:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        is_impatient = self.requested is not None and number == signal.SIGINT
        self.requested = name
        if is_impatient or not self._is_training:
            raise RunStopped(name)
        with contextlib.suppress(RuntimeError):  # the signal came in the middle of another print
            self._console.print(f"{name}: saving at the end of this step …")


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
