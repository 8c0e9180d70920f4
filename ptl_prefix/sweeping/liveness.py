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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

HEARTBEAT_S = 10.0
"""Seconds between two heartbeats of a worker."""

_TIMEOUT_S = 90.0
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


def identify_this_process() -> dict[str, Any]:
    """The identity of this process, with a heartbeat of now."""
    pid = os.getpid()
    return {"machine": _machine(), "pid": pid, "born": _start_time(pid), "beat": time.time()}


def is_alive(process: Mapping[str, Any] | None) -> bool:
    """Whether a process is alive.

    Args:
        process: What `identify_this_process` returned there; `None` is no process.
    """
    if process is None:
        return False
    if process["machine"] == _machine():
        return bool(_start_time(process["pid"]) == process["born"])
    return bool(time.time() - process["beat"] < _TIMEOUT_S)


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
