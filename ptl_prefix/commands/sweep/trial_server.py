"""The trial server: a process that has imported everything, and forks itself for each trial of a sweep.

In: lines of JSON on standard input, from `ptl_prefix.sweeping.trial_processes`. Out: a line with the exit code of each
trial that has ended. A trial runs what `ptl-prefix train resume=<folder>` runs: a frozen config, without Hydra
(`trial_fork.py`). Trials of a pack run in one fork (`pack_process.py`), and the first fork checks configs
(`call_process.py`). When the server dies, its trials stop with a checkpoint; when the process that started the server
dies, the server ends.
"""

import importlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ptl_prefix.artifacts.file_lock import open_unlinked
from ptl_prefix.backbones.library_logging import silence_library_messages
from ptl_prefix.commands.standard_streams import escape_unknown_characters
from ptl_prefix.commands.sweep.call_process import fork_for_calls
from ptl_prefix.commands.sweep.trial_fork import STOPPING_TIMEOUT_S, run_pack, run_trial

SERVER_MODULE = "ptl_prefix.commands.sweep.trial_server"
"""The name of this module, which `python -m` runs."""

_IMPORTED = (
    "ptl_prefix.commands.train.command",
    "ptl_prefix.methods.prefix_tuning",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.gpt2.modeling_gpt2",
    "transformers.generation.utils",
    "torch._dynamo",
    "omegaconf",
    "requests",
    "wandb",
    "wandb.sdk.launch.inputs.internal",
)
"""Modules that a trial would otherwise import when it first uses them; those that are not installed are skipped."""
_CALLS = "--calls="
"""Argument with the file descriptor of the connection for calls."""
_ASYNC_LOAD = "HF_DEACTIVATE_ASYNC_LOAD"


class _Server:
    """Starts trials and reports their exit codes.

    Args:
        requests: File descriptor from which the requests are read.
    """

    def __init__(self, requests: int) -> None:
        self._requests, self._unread = requests, b""
        self._numbers: dict[int, int] = {}
        self._packs: dict[int, _PackFork] = {}
        # Nothing is ever written to this pipe. Its trials read it, and so notice when this process dies and closes it.
        self._lifeline = os.pipe()
        self._ended = os.pipe()
        os.set_blocking(self._ended[1], False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._ended[1], warn_on_full_buffer=False)

    def run(self) -> None:
        """Handle requests until the pipe of requests is closed."""
        while True:
            ready, _, _ = select.select([self._requests, self._ended[0]], [], [])
            if self._ended[0] in ready:
                os.read(self._ended[0], 4096)
                self._report()
            if self._requests in ready and not self._handle_requests():
                self._stop_all()
                return

    def _handle_requests(self) -> bool:
        """Handle the requests that have arrived; false if the pipe is closed."""
        data = os.read(self._requests, 65536)
        if not data:
            return False
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            request = json.loads(line)
            if "start" in request:
                self._start(request)
            elif "log" in request:
                log_to(Path(request["log"]))
            else:
                self._signal(request["signal"], signal.Signals[request["name"]])
        return True

    def _start(self, request: dict[str, Any]) -> None:
        if request["pack"] is not None:
            self._start_in_pack(request)
            return
        pid = os.fork()
        if pid == 0:
            self._become_fork()
            run_trial(
                Path(request["folder"]),
                request["threads"],
                request["device"],
                lifeline=self._lifeline[0],
                launcher=request["launcher"],
            )
        self._numbers[pid] = request["start"]

    def _start_in_pack(self, request: dict[str, Any]) -> None:
        """Send a trial to its pack, which is forked for its first trial, and again after it has died."""
        pack = next((one for one in self._packs.values() if one.pack == request["pack"]), None)
        if pack is None:
            reading, writing = os.pipe()
            pid = os.fork()
            if pid == 0:
                self._become_fork()
                os.close(writing)
                run_pack(reading, request["threads"], request["device"])
            os.close(reading)
            pack = self._packs[pid] = _PackFork(request["pack"], writing)
        pack.numbers.append(request["start"])
        pack.send({"start": request["start"], "folder": request["folder"]})

    def _become_fork(self) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # A pack ends when its pipe is closed, which must be open nowhere else.
        for end in (self._lifeline[1], *self._ended, *(pack.pipe for pack in self._packs.values())):
            os.close(end)

    def _signal(self, number: int, what: signal.Signals) -> None:
        for pid, one in self._numbers.items():
            if one == number:
                os.kill(pid, what)  # the pid is not reused before the process is waited for
        for pack in self._packs.values():
            if number in pack.numbers:
                pack.send({"signal": number, "name": what.name})

    def _report(self) -> None:
        while self._numbers or self._packs:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            for number in self._forget(pid):
                print(json.dumps({"number": number, "exit": code}), flush=True)

    def _forget(self, pid: int) -> Sequence[int]:
        """Forget a fork that has ended, and return the numbers of its trials; those of a pack may have ended before."""
        if (pack := self._packs.pop(pid, None)) is not None:
            os.close(pack.pipe)
            return pack.numbers
        return [self._numbers.pop(pid)] if pid in self._numbers else []

    def _stop_all(self) -> None:
        for pid in (*self._numbers, *self._packs):
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOPPING_TIMEOUT_S
        while (self._numbers or self._packs) and time.monotonic() < deadline:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            self._forget(pid)
            time.sleep(0.0 if pid else 0.05)
        for pid in (*self._numbers, *self._packs):
            os.kill(pid, signal.SIGKILL)


@dataclass
class _PackFork:
    """A fork in which the trials of a pack run.

    Args:
        pack: Number of the pack.
        pipe: Where it reads its requests from; it ends when this is closed.
        numbers: The trials that were sent to it. It reports their ends itself.
    """

    pack: int
    pipe: int
    numbers: list[int] = field(default_factory=list)

    def send(self, message: dict[str, Any]) -> None:
        """Send a request; nothing happens if the fork has ended, which is reported when it is waited for."""
        with suppress(BrokenPipeError):
            os.write(self.pipe, json.dumps(message).encode() + b"\n")


def log_to(path: Path) -> None:
    """Append to this file what was printed before the study's folder was known, and everything from now on."""
    log = open_unlinked(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(log, os.pread(2, os.fstat(2).st_size, 0))
    os.dup2(log, 2)
    os.close(log)


def num_threads() -> int:
    """The number of threads of this process according to `/proc`; 1 without it."""
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.is_dir() else 1


def _load_backbone_once() -> None:
    """Load a backbone, so that what the first loading compiles and caches is there for every trial."""
    previous = os.environ.get(_ASYNC_LOAD)
    os.environ[_ASYNC_LOAD] = "1"  # asynchronous loading leaves threads behind
    importlib.import_module("ptl_prefix.backbones.spec").load_backbone(dtype="float32", device="cpu")
    if previous is None:
        del os.environ[_ASYNC_LOAD]
    else:
        os.environ[_ASYNC_LOAD] = previous


def main() -> None:
    """Run the server until the pipe of requests is closed."""
    silence_library_messages()
    escape_unknown_characters()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests = os.dup(0)
    calls = next((word for word in sys.argv[1:] if word.startswith(_CALLS)), None)
    if "--warm" in sys.argv[1:]:
        for name in _IMPORTED:
            with suppress(ModuleNotFoundError):
                importlib.import_module(name)
        _load_backbone_once()
        if (count := num_threads()) > 1:
            # A fork would inherit the locks of other threads, which would never be released.
            print(
                f"The trial server must have one thread to fork, but has {count}; it restarts without imports.",
                file=sys.stderr,
                flush=True,
            )
            os.execv(sys.executable, [sys.executable, "-m", SERVER_MODULE, *([] if calls is None else [calls])])
    if calls is not None:
        fork_for_calls(int(calls.removeprefix(_CALLS)), requests)
    _Server(requests).run()
    os._exit(0)  # a regular exit would unload all modules, which takes longer than most trials take to start


if __name__ == "__main__":
    main()
