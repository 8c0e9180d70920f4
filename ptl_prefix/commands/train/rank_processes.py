"""Starts the ranks of one run on this machine as processes.

In: a run folder with its config, and the number of ranks. Out: all ranks have exited. The ranks read the config from
the folder instead of composing it with Hydra, and connect by the same environment variables as torchrun's ranks.

torchrun itself is not used: it kills a run that needs more than half a minute to save, forwards Ctrl-C twice, and loses
the exit code.
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
MIRROR_BEHIND = 5
"""Exit code of a run that finished, but whose mirror in the object store does not have all of it."""
LOST_RANK = 3
"""Exit code of a rank that ends because another rank exited."""
_GRACE_S = 15.0
"""Seconds that the other ranks have to write their record after one failed; then they are killed."""
_LOOPBACK = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)


class RankProcesses:
    """The rank processes of one run.

    Args:
        folder: Run folder with the run's config.
        num_ranks: Number of processes.
        changes: What may differ from the run as it began, as text for the ranks.
    """

    def __init__(self, folder: RunFolder, num_ranks: int, changes: str) -> None:
        rank_module = "ptl_prefix.commands.train.rank"
        self._command = [sys.executable, "-m", rank_module, str(folder.path.absolute()), changes]
        self._num_ranks = num_ranks
        self._processes: list[subprocess.Popen[bytes]] = []
        self._stop_signal: int | None = None
        self.failure: tuple[int, int] | None = None
        """The rank that failed first and its exit code, which is the negative signal number if it was killed."""

    @property
    def stop(self) -> int | None:
        """Exit code of a run that a signal stopped; `None` if no signal did."""
        codes = [process.returncode for process in self._processes]
        if self._stop_signal is not None and any(codes):
            return 128 + self._stop_signal
        return codes[0] if codes[0] in _STOPS else None

    @property
    def mirror_is_behind(self) -> bool:
        """Whether the run finished, but its mirror in the object store does not have all of it."""
        return self.failure is None and self._processes[0].returncode == MIRROR_BEHIND

    @property
    def rank_zero_was_killed(self) -> bool:
        """Whether rank 0 was killed, so that it could not write the record."""
        return self._processes[0].returncode < 0

    def run(self) -> None:
        """Start the ranks, forward Ctrl-C and SIGTERM, and wait; after a failure, only for a grace period."""
        store = dist.TCPStore(  # type: ignore[attr-defined]
            "127.0.0.1", 0, is_master=True, wait_for_workers=False
        )
        with self._forwarding_signals():
            try:
                for rank in range(self._num_ranks):
                    self._processes.append(self._start(rank, store.port))
                self._wait()
            finally:
                for process in self._processes:
                    process.kill()
                    process.wait()
                    assert process.stdin is not None
                    process.stdin.close()

    def _start(self, rank: int, port: int) -> subprocess.Popen[bytes]:
        # In a session of its own: the terminal sends Ctrl-C to a whole session, so that it would reach a rank twice.
        return subprocess.Popen(
            self._command, stdin=subprocess.PIPE, env=self._environment(rank, port), start_new_session=True
        )

    def _environment(self, rank: int, port: int) -> Mapping[str, str]:
        threads = max(1, num_cores() // self._num_ranks)
        defaults = {"OMP_NUM_THREADS": str(threads)}
        if _LOOPBACK is not None:
            defaults["GLOO_SOCKET_IFNAME"] = _LOOPBACK
        rank_variables = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": self._num_ranks,
            "LOCAL_WORLD_SIZE": self._num_ranks,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "TORCHELASTIC_USE_AGENT_STORE": True,  # the store is in this process, not in rank 0
        }
        return {**defaults, **os.environ, **{name: str(value) for name, value in rank_variables.items()}}

    def _wait(self) -> None:
        deadline = float("inf")
        while any(process.poll() is None for process in self._processes) and time.monotonic() < deadline:
            time.sleep(0.05)
            if self._failed() and deadline == float("inf"):
                deadline = time.monotonic() + _GRACE_S
        self.failure = self._failed()

    def _failed(self) -> tuple[int, int] | None:
        codes = [(rank, process.poll()) for rank, process in enumerate(self._processes)]
        failed = [(rank, code) for rank, code in codes if code and code not in (*_STOPS, MIRROR_BEHIND)]
        return min(failed, key=lambda rank_and_code: rank_and_code[1] == LOST_RANK, default=None)

    @contextmanager
    def _forwarding_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {number: signal.signal(number, self._forward) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        self._stop_signal = number
        for process in self._processes:
            process.send_signal(number)
