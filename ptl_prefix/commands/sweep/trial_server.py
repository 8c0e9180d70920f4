"""Starts a sweep's trials: a process that has imported everything, and makes a copy of itself for each.

In: lines of JSON on standard input, from `ptl_prefix.sweeping.trial_processes`. Out: a line with the exit code of each
trial that has ended. A trial is what `ptl-prefix train resume=<folder>` runs: a frozen config, and none of Hydra's
syntax. It is told to stop, and saves, when its host is gone, and the host ends when the process that speaks to it
does.
"""

import importlib
import json
import os
import select
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from ptl_prefix.backbones.library_logging import silence_library_messages

LOG_FILE = "log.txt"
"""What a trial prints, in its folder."""

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
"""What a trial would import by itself, one by one, at the first use; what is not there it will not miss either."""
_ASYNC_LOAD = "HF_DEACTIVATE_ASYNC_LOAD"
_STOPPING_S = 60.0
"""How long a trial may take to save what it has."""


class _Host:
    """The trials that run now.

    Args:
        orders: Where lines come from.
    """

    def __init__(self, orders: int) -> None:
        self._orders, self._unread = orders, b""
        self._numbers: dict[int, int] = {}
        # Nobody writes into it. A trial sees its end when the last who could have, this process, is gone.
        self._lifeline = os.pipe()
        self._ended = os.pipe()
        os.set_blocking(self._ended[1], False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._ended[1], warn_on_full_buffer=False)

    def run(self) -> None:
        """Until nobody gives orders any more."""
        while True:
            ready, _, _ = select.select([self._orders, self._ended[0]], [], [])
            if self._ended[0] in ready:
                os.read(self._ended[0], 4096)
                self._report()
            if self._orders in ready and not self._obey():
                self._stop_all()
                return

    def _obey(self) -> bool:
        """Carry out what was said; false when nothing will be any more."""
        said = os.read(self._orders, 65536)
        if not said:
            return False
        *lines, self._unread = (self._unread + said).split(b"\n")
        for line in lines:
            order = json.loads(line)
            if "start" in order:
                self._start(order)
            elif "log" in order:
                keep_log(Path(order["log"]))
            else:
                self._signal(order["signal"], signal.Signals[order["name"]])
        return True

    def _start(self, order: dict[str, Any]) -> None:
        pid = os.fork()
        if pid == 0:
            self._become_trial(order)
        self._numbers[pid] = order["start"]

    def _become_trial(self, order: dict[str, Any]) -> NoReturn:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for end in (self._lifeline[1], *self._ended):
            os.close(end)
        run_trial(Path(order["folder"]), order["threads"], order["device"], lifeline=self._lifeline[0])

    def _signal(self, number: int, what: signal.Signals) -> None:
        for pid, one in self._numbers.items():
            if one == number:
                os.kill(pid, what)  # it is not waited for yet, so its number is nobody else's

    def _report(self) -> None:
        while self._numbers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            number = self._numbers.pop(pid, None)
            if number is not None:
                print(json.dumps({"number": number, "exit": os.waitstatus_to_exitcode(status)}), flush=True)

    def _stop_all(self) -> None:
        for pid in self._numbers:
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOPPING_S
        while self._numbers and time.monotonic() < deadline:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            self._numbers.pop(pid, None)
            time.sleep(0.0 if pid else 0.05)
        for pid in self._numbers:
            os.kill(pid, signal.SIGKILL)


def run_trial(folder: Path, threads: int, device: int | None, *, lifeline: int) -> NoReturn:
    """What a copy does. It ends here, and never comes back into the host's code."""
    code = 1
    try:
        log = os.open(folder / LOG_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for old, new in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(old, new)
        threading.Thread(target=_stop_when_cut, args=(lifeline,), daemon=True).start()
        os.environ |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        if device is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = visible_device(device, os.environ.get("CUDA_VISIBLE_DEVICES"))
        import torch

        torch.set_num_threads(threads)
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


def keep_log(path: Path) -> None:
    """Put what was printed so far, while the study's folder was not known, behind this file, and the rest with it."""
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(log, os.pread(2, os.fstat(2).st_size, 0))
    os.dup2(log, 2)
    os.close(log)


def visible_device(device: int, visible: str | None) -> str:
    """The name of a device among those that this machine's owner, such as Slurm, has left us."""
    names = [name for name in (visible or "").split(",") if name]
    return names[device % len(names)] if names else str(device)


def _stop_when_cut(lifeline: int) -> None:
    """The host is gone, and with it whoever wanted this trial: save, or at least end."""
    os.read(lifeline, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_STOPPING_S)
    os._exit(128 + signal.SIGTERM)


def num_threads() -> int:
    """The threads of this process, as the system counts them; 1 where it does not say."""
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.is_dir() else 1


def _rehearse() -> None:
    """Load a backbone once: what the first one compiles and reads is there for every trial, then."""
    usual = os.environ.get(_ASYNC_LOAD)
    os.environ[_ASYNC_LOAD] = "1"  # its threads would outlive it
    importlib.import_module("ptl_prefix.backbones.spec").load_backbone(dtype="float32", device="cpu")
    if usual is None:
        del os.environ[_ASYNC_LOAD]
    else:
        os.environ[_ASYNC_LOAD] = usual


def main() -> None:
    """Read orders until there are no more."""
    silence_library_messages()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    orders = os.dup(0)
    if "--warm" in sys.argv[1:]:
        for name in _IMPORTED:
            with suppress(ModuleNotFoundError):
                importlib.import_module(name)
        _rehearse()
        if (count := num_threads()) > 1:
            # What a copy inherits of another thread is its locks, held for ever.
            print(f"{count} threads after the imports: trials start cold", file=sys.stderr, flush=True)
            os.execv(sys.executable, [sys.executable, "-m", "ptl_prefix.commands.sweep.trial_server"])
    _Host(orders).run()
    os._exit(0)  # to take all those modules apart would take longer than most trials start


if __name__ == "__main__":
    main()
