"""Stops a trial whose worker cannot send heartbeats, before other machines count the worker as dead.

In: the trial's process, and each heartbeat that was stored. Out: the process has stopped by the time at which another
worker may take the trial, so that no trial runs in two places. A thread of its own watches the time and uses no
storage, as the storage may be what hangs.
"""

import threading
import time
from types import TracebackType
from typing import Self

from ptl_prefix.sweeping.liveness import TIMEOUT_S
from ptl_prefix.sweeping.trial_processes import TrialProcess

STOP_S = TIMEOUT_S - 30.0
"""Seconds without a heartbeat after which the trial is asked to save a checkpoint and stop."""

KILL_S = TIMEOUT_S - 5.0
"""Seconds without a heartbeat after which the trial is killed."""

_POLL_S = 1.0


class LeaseGuard:
    """Watches the time since the last heartbeat of one trial while the block runs.

    Args:
        process: The trial's process.
        sent: `time.monotonic()` when the last heartbeat was sent that is known to be stored.
    """

    def __init__(self, process: TrialProcess, sent: float) -> None:
        self._process, self._sent = process, sent
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.expired = False
        """Whether the trial was stopped."""

    def renew(self, sent: float) -> None:
        """Note that a heartbeat was stored.

        Args:
            sent: `time.monotonic()` when it was sent; it may have been stored much later.
        """
        self._sent = sent

    def _watch(self) -> None:
        while not self._ended.wait(_POLL_S):
            silent_s = time.monotonic() - self._sent
            if silent_s >= KILL_S:
                self._process.signal("SIGKILL")
            elif silent_s >= STOP_S and not self.expired:
                self.expired = True
                self._process.signal("SIGTERM")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
