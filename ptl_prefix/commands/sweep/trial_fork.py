"""What a fork of the trial server does: one trial, the trials of a pack, or the launcher of one trial.

In: a run folder or a pipe of requests, CPU threads and a device. Out: the fork has exited, with the exit code of its
trial. It never returns to the server's code.
"""

import importlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ptl_prefix.artifacts.file_lock import open_unlinked
from ptl_prefix.commands.sweep.trial_resources import limit_environment, use_resources
from ptl_prefix.sweeping.trial_processes import TRIAL_LOG

STOPPING_TIMEOUT_S = 60.0
"""Seconds that a trial has to save a checkpoint when the server is gone."""


def run_trial(
    folder: Path, threads: int, device: int | None, *, lifeline: int, launcher: Sequence[str] = ()
) -> NoReturn:
    """Run a trial in a fork of the server. The fork exits here and never returns to the server's code."""
    code = 1
    try:
        log = open_unlinked(folder / TRIAL_LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for old, new in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(old, new)
        threading.Thread(target=_stop_with_server, args=(lifeline,), daemon=True).start()
        if launcher:
            code = _run_launched(folder, threads, device, launcher)
        else:
            use_resources(threads, device)
            train = importlib.import_module("ptl_prefix.commands.train.command")
            train.run_frozen(folder)
            code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


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
    code = 1
    try:
        reports = os.dup(1)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for old, new in ((nothing, 0), (2, 1)):  # what no trial prints is in the server's log
            os.dup2(old, new)
        use_resources(threads, device)
        pack_process = importlib.import_module("ptl_prefix.commands.sweep.pack_process")
        pack_process.run(requests, reports)
        code = 128 + signal.SIGTERM  # a pack only ends when it is stopped
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _stop_with_server(lifeline: int) -> None:
    """Stop the trial with a checkpoint when the server dies; end it if that takes too long."""
    os.read(lifeline, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOPPING_TIMEOUT_S)
    os._exit(128 + signal.SIGTERM)
