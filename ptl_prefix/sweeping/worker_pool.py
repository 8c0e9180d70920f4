"""Several workers of one machine, until the study is done.

In: a scheduler, the number of workers, what each may use. Out: every worker has ended, by itself or because it was
told to. Ctrl-C once: what runs is finished, and nothing new begins. Twice, or SIGTERM: what runs is stopped and saved,
too.
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
        scheduler: Hands out jobs to all of them.
        host: Starts their trials; closed at the end.
        workers: How many.
        threads: CPU threads of each; `None`: the machine's, divided.
        devices: Accelerators, handed to workers in turn.
        say: Told in a sentence what happened.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        host: TrialServer,
        *,
        workers: int,
        threads: int | None,
        devices: Sequence[int],
        say: Callable[[str], None],
    ) -> None:
        self._host = host
        self._say = say
        self.interrupted: str | None = None
        self._errors: list[BaseException] = []
        share = threads or max(1, num_cores() // workers)
        self.workers = [
            Worker(
                scheduler, self._host, threads=share, device=devices[place % len(devices)] if devices else None, say=say
            )
            for place in range(workers)
        ]

    def run(self, glance: Callable[[], None], every_s: float = 1.0) -> None:
        """Work until there is nothing to do.

        Args:
            glance: Called now and then, by this thread.
            every_s: How often.

        Raises:
            Exception: What a worker met that no trial is to blame for.
        """
        threads = [threading.Thread(target=self._work, args=(worker,), daemon=True) for worker in self.workers]
        usual = {number: signal.signal(number, self._hear) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                glance()
                for thread in threads:
                    thread.join(every_s / len(threads))
            glance()
        finally:
            self._stop(now=True)
            for thread in threads:
                thread.join()
            self._host.close()
            for number, handler in usual.items():
                signal.signal(number, handler)
        if self._errors:
            raise self._errors[0]

    def _work(self, worker: Worker) -> None:
        try:
            worker.run()
        except BaseException as error:
            self._errors.append(error)
            self._stop(now=True)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        is_second = self.interrupted is not None
        self.interrupted = signal.Signals(number).name
        if number == signal.SIGINT and not is_second:
            self._say("finishing what runs; Ctrl-C again stops it, saved")
        self._stop(now=is_second or number == signal.SIGTERM)

    def _stop(self, *, now: bool) -> None:
        for worker in self.workers:
            worker.stopping.set()
            if now:
                worker.stopping_now.set()
