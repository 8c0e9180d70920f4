"""Workers of this process, each in a thread.

In: a scheduler, a trial server, and the resources of a worker. Out: workers whose trials are processes of this machine.
"""

import threading
import time
from collections.abc import Callable, Sequence

from ptl_prefix.sweeping.executor import WorkerState
from ptl_prefix.sweeping.scheduler import Scheduler
from ptl_prefix.sweeping.trial_processes import TrialServer
from ptl_prefix.sweeping.worker import Worker


class LocalExecutor:
    """Starts workers as threads of this process.

    Args:
        scheduler: Chooses the trials of all workers.
        server: Starts the trials' processes; closed at the end.
        threads: CPU threads of each trial or pack.
        devices: Accelerators that the workers take in turn; an empty list assigns none.
        notify: Called with a status line when something happens.
        pack: Trials in a pack, each with a worker; 1 gives each trial a process of its own.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        server: TrialServer,
        *,
        threads: int,
        devices: Sequence[int],
        notify: Callable[[str], None],
        pack: int,
    ) -> None:
        self._scheduler, self._server, self._notify = scheduler, server, notify
        self._threads, self._devices, self._pack = threads, devices, pack

    def start(self, number: int) -> "LocalWorker":
        """Start a worker, or the workers of one pack."""
        workers = [
            Worker(
                self._scheduler,
                self._server,
                threads=self._threads,
                device=self._devices[number % len(self._devices)] if self._devices else None,
                notify=self._notify,
                pack=number if self._pack > 1 else None,
            )
            for _ in range(self._pack)
        ]
        return LocalWorker(workers)

    def close(self) -> None:
        """Stop the trial server."""
        self._server.close()


class LocalWorker:
    """Threads with one worker each; one thread, unless the trials are in a pack.

    Args:
        workers: The workers, which are started.
    """

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._workers = workers
        self._errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, args=(worker,), daemon=True) for worker in workers]
        for thread in self._threads:
            thread.start()

    def wait(self, timeout_s: float) -> WorkerState:
        """Wait for the end of all threads; a thread of this process cannot be lost.

        Raises:
            Exception: The first error of a worker that is not a trial's failure.
        """
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            return "running"
        if self._errors:
            raise self._errors[0]
        return "done"

    def stop(self, *, now: bool) -> None:
        """Take no new trial; with `now`, also stop the running ones."""
        for worker in self._workers:
            worker.stopping.set()
            if now:
                worker.stopping_now.set()

    def _run(self, worker: Worker) -> None:
        try:
            worker.run()
            for other in self._workers:
                other.study_is_done.set()
        except BaseException as error:
            self._errors.append(error)
            self.stop(now=True)  # of a pack; the pool stops the others
