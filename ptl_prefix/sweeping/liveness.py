"""Whether the worker process of a trial is still alive.

In: this process, or the identity that another process stored with its trial. Out: an identity of plain values, or the
answer. For a process of the same machine the operating system is asked; for one of another machine the age of its last
heartbeat decides.
"""

import functools
import hashlib
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

HEARTBEAT_S = 10.0
"""Seconds between two heartbeats of a worker."""

TIMEOUT_S = 90.0
"""Seconds without a heartbeat after which a worker on another machine counts as dead."""


@functools.cache
def _machine() -> str:
    """An identifier of this machine since its last boot. It is hashed, so that it reveals no host name.

    Each container counts as a machine, since each has process ids of its own.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        boot = str(psutil.boot_time())
    try:
        container = os.readlink("/proc/self/ns/pid")
    except OSError:
        container = ""
    return hashlib.sha256(f"{platform.node()} {boot} {container}".encode()).hexdigest()[:12]


def _start_time(pid: int) -> float | None:
    """When a process started, which distinguishes it from a later one with the same id; `None` if it is not running."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        ticks = _start_ticks(pid)
        return round(process.create_time(), 2) if ticks is None else ticks
    except psutil.Error:
        return None


def _start_ticks(pid: int) -> float | None:
    """When a process started, in clock ticks since boot; `None` without `/proc`.

    The wall-clock time that is computed from it changes when the clock is set, and would make the process look new.
    """
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
        return float(after_name.split()[19])
    except (OSError, IndexError):
        return None


@dataclass(frozen=True, kw_only=True)
class Liveness:
    """Says who this process is, and whether the process that works on a trial is alive.

    A study has one; its defaults ask the operating system. A simulation hands in a clock and processes of its own.

    Args:
        clock: Seconds since 1970; the clocks of all machines must agree within `TIMEOUT_S - HEARTBEAT_S`.
        machine: Returns the identifier of this machine since its last boot.
        pid: Returns the id of this process.
        start_time: Returns when the process with an id of this machine started; `None` if it is not running.
    """

    clock: Callable[[], float] = time.time
    machine: Callable[[], str] = _machine
    pid: Callable[[], int] = os.getpid
    start_time: Callable[[int], float | None] = _start_time

    def identify(self) -> dict[str, Any]:
        """The identity of this process, with a heartbeat of now."""
        pid = self.pid()
        return {"machine": self.machine(), "pid": pid, "born": self.start_time(pid), "beat": self.clock()}

    def is_alive(self, process: Mapping[str, Any] | None, beat: float | None = None) -> bool:
        """Whether a process is alive.

        Args:
            process: What `identify` returned there; `None` is no process.
            beat: Time of its last heartbeat; `None` is that of `process` itself.
        """
        if process is None:
            return False
        if process["machine"] == self.machine():
            return bool(self.start_time(process["pid"]) == process["born"])
        return bool(self.clock() - (process["beat"] if beat is None else beat) < TIMEOUT_S)
