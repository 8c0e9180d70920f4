"""What a fork of the trial server does: one trial, the trials of a pack, or the launcher of one trial.

In: a run folder or a pipe of requests, CPU threads and a device. Out: the fork has exited, with the exit code of its
trial. It never returns to the server's code.
"""

import importlib
import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ptl_prefix.artifacts.file_lock import open_unlinked
from ptl_prefix.commands.sweep.exit_code import exit_with
from ptl_prefix.commands.sweep.trial_resources import limit_environment, use_resources
from ptl_prefix.sweeping.trial_processes import TRIAL_LOG

STOPPING_TIMEOUT_S = 60.0
"""Seconds that a trial has to save a checkpoint when the server is gone."""


def run_trial(
    folder: Path, threads: int, device: int | None, *, lifeline: int, launcher: Sequence[str] = ()
) -> NoReturn:
    """Run a trial in a fork of the server. The fork exits here and never returns to the server's code."""

    def body() -> int:
        log = open_unlinked(folder / TRIAL_LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        _set_streams(log, log)
        threading.Thread(target=_stop_with_server, args=(lifeline,), daemon=True).start()
        if launcher:
            return _run_launched(folder, threads, device, launcher)
        use_resources(threads, device)
        importlib.import_module("ptl_prefix.commands.train.command").run_frozen(folder)
        return 0

    exit_with(body)


def _set_streams(output: int, errors: int) -> None:
    """Let nothing be read, and send what is printed to these file descriptors."""
    for old, new in ((os.open(os.devnull, os.O_RDONLY), 0), (output, 1), (errors, 2)):
        os.dup2(old, new)


def _run_launched(folder: Path, threads: int, device: int | None, launcher: Sequence[str]) -> int:
    limit_environment(threads, device)
    code: int = importlib.import_module("ptl_prefix.commands.sweep.launched_trial").run(folder, launcher)
    if code < 0:  # the worker must see a killed trial
        if -code != signal.SIGKILL:  # whose handler cannot be set
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


def run_pack(requests: int, threads: int, device: int | None) -> NoReturn:
    """Run the trials of a pack in a fork of the server. The fork exits here and never returns to the server's code.

    Args:
        requests: File descriptor from which the requests are read; the pack ends when it is closed.
        threads: CPU threads of the pack.
        device: The accelerator that the trials see; `None` hides none.
    """

    def body() -> int:
        reports = os.dup(1)
        _set_streams(2, 2)  # what no trial prints is in the server's log
        use_resources(threads, device)
        importlib.import_module("ptl_prefix.commands.sweep.pack_process").run(requests, reports)
        return 128 + signal.SIGTERM  # a pack only ends when it is stopped

    exit_with(body)


def _stop_with_server(lifeline: int) -> None:
    """Stop the trial with a checkpoint when the server dies; end it if that takes too long."""
    os.read(lifeline, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOPPING_TIMEOUT_S)
    os._exit(128 + signal.SIGTERM)
