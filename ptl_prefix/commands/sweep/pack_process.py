"""The process of a pack: trials of a sweep that train on one frozen backbone.

In: lines of JSON from the trial server: a trial to start, or a signal for one of them. Out: a line with the exit code
of each trial that has ended, and in each run folder what a trial in a process of its own would write. The process ends
when the server closes the pipe, or by SIGTERM; its trials stop with a checkpoint first.
"""

import contextlib
import ctypes
import importlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ptl_prefix.artifacts.file_lock import open_unlinked
from ptl_prefix.commands.sweep.exit_code import exit_code_of
from ptl_prefix.sweeping.trial_processes import TRIAL_LOG
from ptl_prefix.training.pack import Pack, PackMember

_STOPPING_TIMEOUT_S = 60.0
"""Seconds that the trials have to save a checkpoint after the trial server has died."""
_M_ARENA_MAX = -8
"""glibc's number of this option, from its `malloc.h`."""
_TRIM_EVERY_S = 10.0
"""Seconds between two times at which freed memory goes back to the system: taking it again costs little then."""


def run(requests: int, reports: int) -> None:
    """Run the trials of a pack until the pipe of requests is closed and all trials have ended.

    Args:
        requests: File descriptor from which the requests are read.
        reports: File descriptor to which the exit codes are written.
    """
    give_freed_memory_back()
    pack = Pack()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: pack.stop())
    reader = threading.Thread(target=_read_requests, args=(pack, requests, reports), daemon=True)
    reader.start()
    pack.run()


def give_freed_memory_back(every_s: float = _TRIM_EVERY_S) -> None:
    """Let trials use memory that another one has freed, from now on.

    glibc keeps freed memory for the thread that had it, and between what is still in use. One trial runs at a time, so
    that all can share one arena without waiting; and from time to time the pages of freed memory go back to the system.
    If each tensor went back when it is freed, a pass would take half as long again. Other C libraries lack these calls.

    Args:
        every_s: Seconds between two times.
    """
    with contextlib.suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_ARENA_MAX, 1)
        threading.Thread(target=_trim, args=(libc.malloc_trim, every_s), daemon=True).start()


def _trim(malloc_trim: Callable[[int], int], every_s: float) -> None:
    while True:
        time.sleep(every_s)
        malloc_trim(0)


def _read_requests(pack: Pack, requests: int, reports: int) -> None:
    """Pass on each request; a closed pipe stops the pack."""
    members: dict[int, PackMember] = {}
    with os.fdopen(requests, "rb") as lines:
        for line in lines:
            request = json.loads(line)
            if "start" in request:
                members[request["start"]] = _add(pack, Path(request["folder"]), _reporter(request["start"], reports))
            else:
                _signal(members[request["signal"]], request["name"])
    pack.stop()
    time.sleep(_STOPPING_TIMEOUT_S)
    os._exit(128 + signal.SIGTERM)


def _signal(member: PackMember, name: str) -> None:
    """A signal to one trial. SIGKILL ends the whole process if the trial that holds it up is meant."""
    if name != signal.SIGKILL.name:
        member.request_stop()
    elif member.is_running:
        os.kill(os.getpid(), signal.SIGKILL)  # the other trials are resumed from their checkpoints


def _add(pack: Pack, folder: Path, report: Callable[[int], None]) -> PackMember:
    log = open_unlinked(folder / TRIAL_LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    train = importlib.import_module("ptl_prefix.commands.train.command")  # imported before by the trial server
    output = os.fdopen(log, "w", encoding="utf-8", errors="backslashreplace", buffering=1)

    return pack.add(lambda member: report(exit_code_of(partial(train.run_frozen, folder, member))), output)


def _reporter(number: int, reports: int) -> Callable[[int], None]:
    def report(code: int) -> None:
        message: dict[str, Any] = {"number": number, "exit": code}
        os.write(reports, json.dumps(message).encode() + b"\n")  # one write, so that no other line is in between

    return report
