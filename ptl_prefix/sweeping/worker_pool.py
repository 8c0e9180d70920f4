"""The workers that one command has started, until the study is done.

In: an executor and the number of workers. Out: every worker has ended, because the study is done or because it was
stopped. The first Ctrl-C lets running trials finish and starts no new ones; a second Ctrl-C, or SIGTERM, also stops the
running trials, which save a checkpoint. A worker that is lost with its machine is started again.
"""

import signal
from collections.abc import Callable
from types import FrameType

from ptl_prefix.errors import SweepError
from ptl_prefix.sweeping.executor import Executor, StartedWorker
from ptl_prefix.sweeping.scheduler import Scheduler
from ptl_prefix.sweeping.trial_store import StopRequest

_MOST_LOSSES = 5
"""Times that a worker may be lost while no trial of the study gets on."""


class WorkerPool:
    """The workers of one command.

    Args:
        scheduler: Chooses the trials of all workers.
        executor: Starts the workers; closed at the end.
        num_workers: Workers, or packs of workers, that run at once.
        notify: Called with a status line when something happens.
    """

    def __init__(
        self, scheduler: Scheduler, executor: Executor, *, num_workers: int, notify: Callable[[str], None]
    ) -> None:
        self._scheduler, self._executor, self._notify = scheduler, executor, notify
        self.num_workers = num_workers
        self.interrupted: str | None = None
        self._running: dict[int, StartedWorker] = {}
        self._request: StopRequest | None = None
        self._passed_on: dict[int, StopRequest] = {}
        self._errors: list[BaseException] = []
        self._losses: dict[int, int] = {}
        self._progress = 0

    def run(self, refresh: Callable[[], None], every_s: float = 1.0) -> None:
        """Run trials until the study is done or the workers are stopped.

        Args:
            refresh: Called by this thread repeatedly and once at the end, for example to draw the progress.
            every_s: Seconds between two calls of `refresh`.

        Raises:
            Exception: The first error of a worker that is not a trial's failure.
            SweepError: If a worker was lost again and again.
        """
        previous = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            for number in range(self.num_workers):
                self._running[number] = self._executor.start(number)
            while self._running:
                refresh()
                self._wait(every_s)
            refresh()
        finally:
            self._stop("now")
            while self._running:
                self._wait(every_s)
            self._executor.close()
            for signal_number, handler in previous.items():
                signal.signal(signal_number, handler)
        if self._errors:
            raise self._errors[0]

    def _wait(self, timeout_s: float) -> None:
        """Wait for each worker in turn, and pass on what was requested meanwhile."""
        each_s = timeout_s / len(self._running)
        for number, worker in list(self._running.items()):
            if self._request is not None:
                self._stop(self._request)
            try:
                state = worker.wait(each_s)
            except BaseException as error:
                self._errors.append(error)
                self._request, state = "now", "done"
            if state == "running":
                continue
            del self._running[number]
            if state == "lost":
                self._replace(number)
            elif self._request is None:
                self._request = "new"  # the study has no more trials, which others may not know before they have begun

    def _replace(self, number: int) -> None:
        """Start a lost worker again, unless all of them are to stop or the study is done or does not get on."""
        if self._request is not None or self._scheduler.is_done:
            return
        progress = _progress_of(self._scheduler)
        if progress > self._progress:
            self._progress = progress
            self._losses.clear()
        self._losses[number] = self._losses.get(number, 0) + 1
        if self._losses[number] > _MOST_LOSSES:
            self._errors.append(
                SweepError(
                    f"A worker must live until a trial of the study has a validation or ends, but worker {number} was "
                    f"lost {self._losses[number]} times before; see the logs of the cluster, and resume the study."
                )
            )
            self._request = "now"
            return
        self._notify(f"Worker {number} was lost with its machine; another one resumes its trial from its checkpoint.")
        self._running[number] = self._executor.start(number)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """Note what a signal requests; the executor is not called here, as it may be in the middle of a call."""
        is_second = self.interrupted is not None
        self.interrupted = signal.Signals(number).name
        if number == signal.SIGINT and not is_second:
            self._notify("Waiting for the running trials to finish; press Ctrl-C again to stop them with a checkpoint.")
        self._request = "now" if is_second or number == signal.SIGTERM else self._request or "new"

    def _stop(self, request: StopRequest) -> None:
        """Pass a request on to each worker that has not received it."""
        self._request = request
        for number, worker in self._running.items():
            if self._passed_on.get(number) != request:
                self._passed_on[number] = request
                worker.stop(now=request == "now")


def _progress_of(scheduler: Scheduler) -> int:
    """A number that grows while trials get on: those that have ended, and the validations of all of them."""
    trials = scheduler.all_trials()
    return sum(trial.state in ("finished", "pruned", "failed") for trial in trials) + sum(
        len(trial.intermediate_values) for trial in trials
    )
