"""Who is at work on a trial, and whether that process is still alive.

In: a process, or what one has written of itself. Out: an owner as plain data, and the answer. On the same machine the
system is asked; of another machine only the beat tells, which its worker renews.
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

BEAT_S = 10.0
"""How often a worker says that it is alive."""

_SILENCE_S = 90.0
"""After which a worker on another machine is taken for dead."""


@functools.cache
def _machine() -> str:
    """A name for this machine since it was started; nobody can read whose it is.

    Containers count as machines: each numbers its processes by itself.
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


def this_process() -> dict[str, Any]:
    """This process as an owner, alive now."""
    pid = os.getpid()
    return {"machine": _machine(), "pid": pid, "born": _born(pid), "beat": time.time()}


def is_alive(owner: Mapping[str, Any] | None) -> bool:
    """Whether an owner is still at work."""
    if owner is None:
        return False
    if owner["machine"] == _machine():
        return bool(_born(owner["pid"]) == owner["born"])
    return bool(time.time() - owner["beat"] < _SILENCE_S)


def _born(pid: int) -> float | None:
    """When a process began, which tells it from a later one with its number; `None` if there is none, or a corpse."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        ticks = _ticks(pid)
        return round(process.create_time(), 2) if ticks is None else ticks
    except psutil.Error:
        return None


def _ticks(pid: int) -> float | None:
    """When a process began, in ticks since the system did; `None` where it does not say.

    The time of day that it follows from moves when the clock is set, and a process that lives would look like another.
    """
    try:
        behind_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
        return float(behind_name.split()[19])
    except (OSError, IndexError):
        return None
