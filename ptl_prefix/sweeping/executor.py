"""Where the workers of a study run: what every executor can do.

In: the number of a worker. Out: a started worker, which can be waited for and stopped. An executor starts processes and
knows their devices. Which trial runs, and which state it is in, is known to the scheduler alone: a worker asks it for
each trial, wherever it runs.
"""

from typing import Literal, Protocol

WorkerState = Literal["running", "done", "lost"]
"""`done`: the worker has ended by itself, or because it was stopped. `lost`: its process or its machine is gone."""


class StartedWorker(Protocol):
    """A worker, or the workers of one pack."""

    def wait(self, timeout_s: float) -> WorkerState:
        """The worker's state, as soon as it has ended or the timeout is over.

        Args:
            timeout_s: Seconds to wait for its end.

        Raises:
            Exception: The error that ended the worker, if it is not the failure of a trial.
        """

    def stop(self, *, now: bool) -> None:
        """Ask the worker to end; nothing happens if it has ended.

        Args:
            now: Whether a running trial is stopped with a checkpoint; otherwise the trial finishes first.
        """


class Executor(Protocol):
    """Starts the workers of one study."""

    def start(self, number: int) -> StartedWorker:
        """Start a worker, or the workers of one pack, with the devices that it needs.

        Args:
            number: Number of the worker; a lost worker is started again under its number.
        """

    def close(self) -> None:
        """Release what the workers needed, when all of them have ended."""
