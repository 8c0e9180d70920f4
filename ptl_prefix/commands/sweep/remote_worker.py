"""A worker of a study on another machine: what an executor starts there.

In: the folder of a study, or its address in an object store where the machines share no disk. Out: the worker has run
trials until the study was done or it was stopped, and its status lines. Its trials are processes of this machine, and
stop with a checkpoint when it dies.
"""

import os
import platform
import queue
import threading
from collections.abc import Sequence
from pathlib import Path

from ptl_prefix.commands.sweep.fetched_study import folder_of_worker
from ptl_prefix.commands.sweep.study_folder import open_study
from ptl_prefix.errors import PtlPrefixError, SweepError

WORKING_DIR_VARIABLE = "PTL_PREFIX_WORKING_DIR"
"""Environment variable with the working directory of studies on this machine, where the machines share no disk."""

_POLL_S = 0.5
_LINES_WITHIN_S = 10.0


class RemoteWorker:
    """A worker, or the workers of a pack. Its methods are called at the same time, each in a thread.

    Args:
        folder: Absolute path of the study's folder.
        working_dir: Working directory of the study, to which relative paths in the trials' settings refer. A machine
            uses another one if `PTL_PREFIX_WORKING_DIR` names it.
        address: Address at which the study can be joined, from which a machine that does not see the folder makes its
            own; `None` if all machines must see it.
        threads: CPU threads of each trial or pack.
    """

    def __init__(self, folder: str, working_dir: str, address: str | None, threads: int) -> None:
        self._folder, self._working_dir, self._threads = Path(folder), Path(working_dir), threads
        self._address = address
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._stop_request: bool | None = None
        self._ended = threading.Event()

    def run(self) -> str | None:
        """Run trials until the study is done or the worker is stopped.

        Returns:
            The error that ended the worker, in one sentence that names the machine; `None` without one.
        """
        try:
            self._run()
        except (PtlPrefixError, OSError) as error:
            return f"{error} (on the machine {platform.node()})"
        finally:
            self._ended.set()
        return None

    def stop(self, now: bool) -> None:
        """Take no new trial; with `now`, also stop a running one with a checkpoint."""
        self._stop_request = now or bool(self._stop_request)

    def next_lines(self) -> Sequence[str]:
        """The status lines since the last call, as soon as there are any; none after some seconds without."""
        lines = []
        try:
            lines.append(self._lines.get(timeout=0.0 if self._ended.is_set() else _LINES_WITHIN_S))
            while True:
                lines.append(self._lines.get_nowait())
        except queue.Empty:
            return lines

    def _run(self) -> None:
        working_dir = self._find_working_dir()
        os.chdir(working_dir)
        folder = self._folder
        if folder.is_relative_to(self._working_dir):
            folder = working_dir / folder.relative_to(self._working_dir)
        study = open_study(folder_of_worker(folder, self._address))
        # No device is chosen here: whoever started this process has hidden those that it may not use.
        server = study.trial_server()
        scheduler = study.scheduler(server)
        executor = study.local_executor(scheduler, server, self._lines.put, threads=self._threads, devices=())
        worker = executor.start(0)
        try:
            while worker.wait(_POLL_S) == "running":
                if self._stop_request is not None:
                    worker.stop(now=self._stop_request)
        finally:
            executor.close()

    def _find_working_dir(self) -> Path:
        """The working directory on this machine, which is made where the machines share no disk."""
        named = os.environ.get(WORKING_DIR_VARIABLE)
        path = Path(named).absolute() if named else self._working_dir
        try:
            if self._address is not None:
                path.mkdir(parents=True, exist_ok=True)
            os.listdir(path)
        except OSError as error:
            raise SweepError(
                f"The working directory of a study must exist on every node of its cluster, but {path} does not "
                f"({error.strerror}); use a disk that all nodes mount at the same path, or an `outputs_url` and "
                f"PostgreSQL, with ${WORKING_DIR_VARIABLE} where a node needs another path."
            ) from error
        return path
