"""The ranks of one run on this machine, as processes.

In: a run folder with its config, and how many. Out: all of them have ended. Their command lines have nothing of Hydra,
which would compose, or sweep, once more in each of them; they read the config that lies in the folder. They meet as
torchrun's ranks do, by the same variables.

torchrun itself is not called: it would end a run that is being saved after half a minute, hand Ctrl-C on twice, and
forget the exit code.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

import torch.distributed as dist

from ptl_prefix.artifacts.fingerprint import num_cores
from ptl_prefix.artifacts.run_folder import RunFolder

_STOPS = {128 + number: number.name for number in (signal.SIGINT, signal.SIGTERM)}
LEFT_ALONE = 3
"""The exit code of a rank that ends because another one is gone."""
_GRACE_S = 15.0
"""How long the others may take to write down that one has failed, before they are killed."""
_LOOPBACK = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)


class RankProcesses:
    """The processes of one run.

    Args:
        folder: The run's; its config lies there.
        number: How many.
    """

    def __init__(self, folder: RunFolder, number: int) -> None:
        self._command = [sys.executable, "-m", "ptl_prefix.commands.train.rank", str(folder.path.absolute())]
        self._number = number
        self._processes: list[subprocess.Popen[bytes]] = []
        self._asked: int | None = None
        self.failure: tuple[int, int] | None = None
        """A rank that failed by itself, and its exit code; of a killed one that is the signal's number, negative."""

    @property
    def stop(self) -> int | None:
        """The exit code of a run that was stopped to go on later; `None` if it was not."""
        codes = [process.returncode for process in self._processes]
        if self._asked is not None and any(codes):
            return 128 + self._asked
        return codes[0] if codes[0] in _STOPS else None

    @property
    def first_was_killed(self) -> bool:
        """Whether the rank that writes could not write how it ended."""
        return self._processes[0].returncode < 0

    def run(self) -> None:
        """Start them, hand on Ctrl-C and SIGTERM, and wait for their end; if one fails, for the others' soon."""
        store = dist.TCPStore(  # type: ignore[attr-defined]
            "127.0.0.1", 0, is_master=True, wait_for_workers=False
        )
        with self._signals_handed_on():
            try:
                for rank in range(self._number):
                    self._processes.append(self._start(rank, store.port))
                self._wait()
            finally:
                for process in self._processes:
                    process.kill()
                    process.wait()
                    assert process.stdin is not None
                    process.stdin.close()

    def _start(self, rank: int, port: int) -> subprocess.Popen[bytes]:
        # A session of its own: Ctrl-C in a terminal goes to all of a session, and would reach a rank twice.
        return subprocess.Popen(
            self._command, stdin=subprocess.PIPE, env=self._environment(rank, port), start_new_session=True
        )

    def _environment(self, rank: int, port: int) -> Mapping[str, str]:
        threads = max(1, num_cores() // self._number)
        usual = {"OMP_NUM_THREADS": str(threads)}
        if _LOOPBACK is not None:
            usual["GLOO_SOCKET_IFNAME"] = _LOOPBACK
        place = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": self._number,
            "LOCAL_WORLD_SIZE": self._number,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "TORCHELASTIC_USE_AGENT_STORE": True,  # the meeting point is here, not in the first rank
        }
        return {**usual, **os.environ, **{name: str(value) for name, value in place.items()}}

    def _wait(self) -> None:
        deadline = float("inf")
        while any(process.poll() is None for process in self._processes) and time.monotonic() < deadline:
            time.sleep(0.05)
            if self._failed() and deadline == float("inf"):
                deadline = time.monotonic() + _GRACE_S
        self.failure = self._failed()

    def _failed(self) -> tuple[int, int] | None:
        codes = [(rank, process.poll()) for rank, process in enumerate(self._processes)]
        failed = [(rank, code) for rank, code in codes if code and code not in _STOPS]
        return min(failed, key=lambda one: one[1] == LEFT_ALONE, default=None)

    @contextmanager
    def _signals_handed_on(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        usual = {number: signal.signal(number, self._hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in usual.items():
                signal.signal(number, handler)

    def _hand_on(self, number: int, frame: FrameType | None) -> None:
        self._asked = number
        for process in self._processes:
            process.send_signal(number)
