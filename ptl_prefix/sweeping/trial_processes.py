"""Starts trials as processes, through a trial server that has imported everything already.

In: a run folder with a frozen config. Out: a running trial, which can be sent signals, and its exit code. The trial
server is a process of its own that is sent lines of JSON. When it or this process dies, in whatever way, its trials
stop and save a checkpoint: none is left running.
"""

import json
import os
import queue
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptl_prefix.sweeping.server_calls import ServerCalls

if TYPE_CHECKING:
    from concurrent.futures import Future

LOST = -255
"""Stands for the exit code of a trial whose server died, since then no process waits for the trial."""

TRIAL_LOG = "log.txt"
"""File in a trial's run folder with everything that the trial prints."""


class TrialServer:
    """The trial server of this process.

    Args:
        module: Module that is run as the server.
        warm: Whether the server imports everything before the first trial.
        launcher: Command that starts the processes of each trial, such as srun with its options, which runs them on
            the nodes of a job; an empty sequence forks each trial.
    """

    def __init__(self, module: str, *, warm: bool, launcher: Sequence[str] = ()) -> None:
        self._module, self._launcher = module, list(launcher)
        self.warm = warm
        self._log: Path | None = None
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._calls: ServerCalls | None = None
        self._waiting: dict[int, TrialProcess] = {}
        self._numbers = iter(range(1, 2**62))

    def prepare(self) -> None:
        """Start the server before there is a trial, so that it imports while the caller finds out what to start."""
        with self._lock:
            self._launch()

    def log_to(self, path: Path) -> None:
        """Append what the server prints, and has printed, to this file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock:
            self._log = path
            self._send({"log": str(path.resolve())})

    def start(self, folder: Path, *, threads: int, device: int | None, pack: int | None = None) -> "TrialProcess":
        """Start or resume a trial.

        Args:
            folder: Run folder with a frozen config.
            threads: CPU threads that the trial may use.
            device: The accelerator that the trial sees; `None` hides none.
            pack: Number of the pack in which the trial runs, a process that is started with its first trial; `None`
                gives the trial a process of its own.
        """
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._launch()
            number = next(self._numbers)
            trial = TrialProcess(self, number)
            self._waiting[number] = trial
            request = {"folder": str(folder.resolve()), "threads": threads, "device": device, "pack": pack}
            self._send({"start": number, "launcher": self._launcher, **request})
        return trial

    def call(self, function: str, arguments: Mapping[str, Any]) -> "Future[Any]":
        """Call a function in a fork of the server, which waits until the server has imported everything.

        Args:
            function: Name of the function.
            arguments: Its keyword arguments, as JSON holds them.

        Returns:
            The result, or `NoAnswerError`.
        """
        with self._lock:
            if self._process is None or self._calls is None:
                self._launch()
            assert self._calls is not None
            return self._calls.call(function, arguments)

    def signal(self, number: int, name: str) -> None:
        """Send a signal to a trial; nothing happens if it has ended."""
        with self._lock:
            self._send({"signal": number, "name": name})

    def close(self) -> None:
        """Stop the server, and the trials that still run."""
        with self._lock:
            process, self._process = self._process, None
            is_idle = not self._waiting
            if self._calls is not None:
                self._calls.close()
                self._calls = None
        if process is not None and process.stdin is not None:
            with suppress(BrokenPipeError):
                process.stdin.close()
            if is_idle:
                process.kill()  # it may still be importing, and holds nothing that is needed
            process.wait()

    def _launch(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        if self._calls is not None:
            self._calls.close()
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", self._module, f"--calls={theirs.fileno()}", *(["--warm"] if self.warm else [])]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
        # A fork has only the thread that forked it. The number of threads of a trial is set when it starts.
        environment |= {
            "JE_ARROW_MALLOC_CONF": "background_thread:false",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            # torch then looks for GPUs without initialising CUDA, which a fork of the server could not use.
            "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
        }
        with theirs, tempfile.TemporaryFile() if self._log is None else self._log.open("ab") as log:
            # In a session of its own it does not receive the terminal's Ctrl-C, which this process handles.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._calls = ServerCalls(ours)
        # Each server has its own table: trials of a server that died must not be mixed with those of the next one.
        self._waiting = {}
        reader = threading.Thread(target=_read_exit_codes, args=(self._process, self._waiting), daemon=True)
        reader.start()

    def _send(self, message: Mapping[str, Any]) -> None:
        process = self._process
        if process is None or process.stdin is None:
            return
        try:
            process.stdin.write(json.dumps(message).encode() + b"\n")
            process.stdin.flush()
        except (BrokenPipeError, ValueError):
            pass  # the server died; `_read_exit_codes` reports its trials as lost


@contextmanager
def prepared_trial_server(module: str, *, warm: bool) -> Iterator[TrialServer]:
    """A trial server that imports while the block finds out what to start; it is stopped at the end of the block."""
    server = TrialServer(module, warm=warm)
    server.prepare()
    try:
        yield server
    finally:
        server.close()


def _read_exit_codes(process: "subprocess.Popen[bytes]", waiting: dict[int, "TrialProcess"]) -> None:
    """Hand each exit code to its trial until the server ends; the remaining trials are lost."""
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            try:
                message = json.loads(line)
                number, code = message["number"], message["exit"]
            except (ValueError, KeyError, TypeError):
                continue  # a library printed it
            if (trial := waiting.pop(number, None)) is not None:
                trial.exit_codes.put(code)
    for trial in list(waiting.values()):
        trial.exit_codes.put(LOST)


class TrialProcess:
    """The process of a trial.

    Args:
        server: The server that started it.
        number: The server's number of it.
    """

    def __init__(self, server: TrialServer, number: int) -> None:
        self._server, self._number = server, number
        self.exit_codes: queue.SimpleQueue[int] = queue.SimpleQueue()

    def wait(self, timeout_s: float) -> int | None:
        """The exit code in `subprocess`'s convention; `None` if the process still runs after the timeout."""
        try:
            return self.exit_codes.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def signal(self, name: str) -> None:
        """Send a signal by its name."""
        self._server.signal(self._number, name)
