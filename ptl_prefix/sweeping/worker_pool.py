"""Several workers on one machine, each in a thread, until the study is done.

In: a scheduler, the number of workers and their resources. Out: every worker has ended, because the study is done or
because it was stopped. The first Ctrl-C lets running trials finish and starts no new ones; a second Ctrl-C, or SIGTERM,
also stops the running trials, which save a checkpoint.
"""

import signal
import threading
from collections.abc import Callable, Sequence
from types import FrameType

from ptl_prefix.artifacts.fingerprint import num_cores
from ptl_prefix.sweeping.scheduler import Scheduler
from ptl_prefix.sweeping.trial_processes import TrialServer
from ptl_prefix.sweeping.worker import Worker


class WorkerPool:
    """The workers of this process.

    Args:
        scheduler: Chooses the trials of all workers.
        server: Starts the trials' processes; closed at the end.
        num_workers: Trials, or packs, that run at once.
        threads: CPU threads of each trial or pack; `None` divides the machine's cores.
        devices: Accelerators that the workers take in turn; an empty list assigns none.
        notify: Called with a status line when something happens.
        pack: Trials in a pack, each with a worker; 1 gives each trial a process of its own.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        server: TrialServer,
        *,
        num_workers: int,
        threads: int | None,
        devices: Sequence[int],
        notify: Callable[[str], None],
        pack: int = 1,
    ) -> None:
        self._server, self._notify = server, notify
        self.interrupted: str | None = None
        self._errors: list[BaseException] = []
        threads_each = threads or max(1, num_cores() // num_workers)
        self.workers = [
            Worker(
                scheduler,
                server,
                threads=threads_each,
                device=devices[index % len(devices)] if devices else None,
                notify=notify,
                pack=index if pack > 1 else None,
            )
            for index in range(num_workers)
            for _ in range(pack)
        ]

    def run(self, refresh: Callable[[], None], every_s: float = 1.0) -> None:
        """Run trials until the study is done or the workers are stopped.

        Args:
            refresh: Called by this thread repeatedly and once at the end, for example to draw the progress.
            every_s: Seconds between two calls of `refresh`.

        Raises:
            Exception: The first error of a worker that is not a trial's failure.
        """
        threads = [threading.Thread(target=self._work, args=(worker,), daemon=True) for worker in self.workers]
        previous = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                refresh()
                for thread in threads:
                    thread.join(every_s / len(threads))
            refresh()
        finally:
            self._stop(now=True)
            for thread in threads:
                thread.join()
            self._server.close()
            for number, handler in previous.items():
                signal.signal(number, handler)
        if self._errors:
            raise self._errors[0]

    def _work(self, worker: Worker) -> None:
        try:
            worker.run()
            for other in self.workers:
                other.study_is_done.set()
        except BaseException as error:
            self._errors.append(error)
            self._stop(now=True)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        is_second = self.interrupted is not None
        self.interrupted = signal.Signals(number).name
        if number == signal.SIGINT and not is_second:
            self._notify("Waiting for the running trials to finish; press Ctrl-C again to stop them with a checkpoint.")
        self._stop(now=is_second or number == signal.SIGTERM)

    def _stop(self, *, now: bool) -> None:
        for worker in self.workers:
            worker.stopping.set()
            if now:
                worker.stopping_now.set()
