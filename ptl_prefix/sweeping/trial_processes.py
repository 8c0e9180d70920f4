"""Trials as processes: asked for here, started by a host that has imported everything already.

In: a run folder with a frozen config. Out: an exit code, and meanwhile a process that can be asked to stop. The host
is a process of its own (`ptl_prefix.commands.sweep.trial_server`), spoken to by lines of JSON. When it or we die,
however that happens, its trials stop and save: there are no orphans.
"""

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

TRIAL_SERVER_MODULE = "ptl_prefix.commands.sweep.trial_server"
LOST = -255
"""The exit code of a trial whose host is gone, and which nobody can have waited for."""


class TrialServer:
    """The host of this process's trials.

    Args:
        warm: Whether it imports everything before the first trial.
    """

    def __init__(self, *, warm: bool) -> None:
        self.warm = warm
        self._log: Path | None = None
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._waiting: dict[int, Running] = {}
        self._numbers = iter(range(1, 2**62))

    def prepare(self) -> None:
        """Begin it before there is a trial: while it imports, the caller can find out what to start."""
        with self._lock:
            self._begin()

    def keep_log(self, path: Path) -> None:
        """Write what it prints, and has printed, behind this file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock:
            self._log = path
            self._tell({"log": str(path.resolve())})

    def start(self, folder: Path, *, threads: int, device: int | None) -> "Running":
        """Begin a trial, or go on with it.

        Args:
            folder: The run's folder, with a frozen config.
            threads: CPU threads that it may use.
            device: The accelerator that it sees; `None`: whatever there is.
        """
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._begin()
            number = next(self._numbers)
            running = Running(self, number)
            self._waiting[number] = running
            self._tell({"start": number, "folder": str(folder.resolve()), "threads": threads, "device": device})
        return running

    def signal(self, number: int, name: str) -> None:
        """Send a trial a signal; one that has ended is past it."""
        with self._lock:
            self._tell({"signal": number, "name": name})

    def close(self) -> None:
        """Stop the host, and with it whatever still runs."""
        with self._lock:
            process, self._process = self._process, None
            is_idle = not self._waiting
        if process is not None and process.stdin is not None:
            with suppress(BrokenPipeError):
                process.stdin.close()
            if is_idle:
                process.kill()  # it may be in the middle of its imports, and nothing of it is needed
            process.wait()

    def _begin(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        words = [sys.executable, "-m", TRIAL_SERVER_MODULE, *(["--warm"] if self.warm else [])]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
        # Threads would not be there in a copy of the host; how many a trial may have is said when it starts.
        environment |= {
            "JE_ARROW_MALLOC_CONF": "background_thread:false",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            # Whether there is a GPU is found out without touching it: no copy could use one that its host has.
            "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
        }
        with tempfile.TemporaryFile() if self._log is None else self._log.open("ab") as log:
            # A session of its own: Ctrl-C at the terminal is ours to hear, and ours to hand on.
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        # Each host has waiters of its own: those of one that died must not be mixed with those of the next.
        self._waiting = {}
        listening = threading.Thread(target=_listen, args=(self._process, self._waiting), daemon=True)
        listening.start()

    def _tell(self, message: Mapping[str, Any]) -> None:
        process = self._process
        if process is None or process.stdin is None:
            return
        try:
            process.stdin.write(json.dumps(message).encode() + b"\n")
            process.stdin.flush()
        except (BrokenPipeError, ValueError):
            pass  # it died; whoever waits for its trials hears of that by its silence


@contextmanager
def prepared_trial_server(*, warm: bool) -> Iterator[TrialServer]:
    """A host that imports while the block finds out what there is to start; stopped at its end."""
    host = TrialServer(warm=warm)
    host.prepare()
    try:
        yield host
    finally:
        host.close()


def _listen(process: "subprocess.Popen[bytes]", waiting: dict[int, "Running"]) -> None:
    """Hand exit codes to those who wait, until the host is gone."""
    assert process.stdout is not None
    with process.stdout as said:
        for line in said:
            try:
                message = json.loads(line)
                number, code = message["number"], message["exit"]
            except (ValueError, KeyError, TypeError):
                continue  # something that a library printed
            if (running := waiting.pop(number, None)) is not None:
                running.exits.put(code)
    for running in list(waiting.values()):
        running.exits.put(LOST)


class Running:
    """A trial's process, as seen from here."""

    def __init__(self, host: TrialServer, number: int) -> None:
        self._host, self._number = host, number
        self.exits: queue.SimpleQueue[int] = queue.SimpleQueue()

    def wait(self, timeout_s: float) -> int | None:
        """Its exit code, as `subprocess` has it; `None` if it is still at work."""
        try:
            return self.exits.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def signal(self, name: str) -> None:
        """Send it a signal by its name."""
        self._host.signal(self._number, name)
