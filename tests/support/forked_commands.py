"""The process behind `CommandServer`, which has imported everything and forks itself for each command.

In: a socket's path, and requests on it: a module of the package, its words, folder, variables, and open files. Out: the
module ran in a fork, with those files, and its exit code went back. A program asks for it, hands signals on, and exits
as the module did; a module whose asker has gone is killed. Modules that it starts by `sys.executable` are forks, too.
That the installed command itself starts is shown by the tests of the package.
"""

import atexit
import fcntl
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import threading
import traceback
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

_ASKER = """#!{python} -SE
import json, os, signal, socket, sys
module, arguments = None, sys.argv[1:]
if not {is_command}:
    if arguments[:1] != ["-m"] or arguments[1].partition(".")[0] != "ptl_prefix":
        os.execv({python!r}, [{python!r}, *arguments])
    module, arguments = arguments[1], arguments[2:]
numbers = [number for number in map(int, os.listdir("/proc/self/fd")) if number > 2]
numbers = [0, 1, 2, *(number for number in numbers if os.path.exists(f"/proc/self/fd/{{number}}"))]
numbers = [number for number in numbers if os.get_inheritable(number)]
asked = socket.socket(socket.AF_UNIX)
asked.connect({address!r})
words = json.dumps([module, arguments, os.getcwd(), dict(os.environ), numbers]).encode()
socket.send_fds(asked, [len(words).to_bytes(4, "big")], numbers)
asked.sendall(words)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, _: asked.sendall(bytes([number])))
code = int(asked.makefile().readline() or 1)
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
"""
"""A program that asks for a command, and hands on its open files; it has three gaps."""
_MOST_FILES = 16


def write_programs(folder: Path, address: Path) -> None:
    """Write `ptl-prefix`, and `python`, which asks for modules of the package and is otherwise the interpreter."""
    for name, is_command in (("ptl-prefix", True), ("python", False)):
        text = _ASKER.format(python=sys.executable, address=str(address), is_command=is_command)
        (folder / name).write_text(text, encoding="utf-8")
        (folder / name).chmod(0o755)


_IMPORTED = (
    "ptl_prefix.commands.train.command",
    "ptl_prefix.commands.evaluate.command",
    "ptl_prefix.commands.compare.command",
    "ptl_prefix.commands.sweep.command",
    "ptl_prefix.commands.hydra_main",
    "ptl_prefix.methods.prefix_tuning",
    "ptl_prefix.methods.lora",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.gpt2.modeling_gpt2",
    "transformers.generation.utils",
    "torch._dynamo",
    "plotly.graph_objects",
)


class _Command:
    """A command that is asked for, and then runs.

    Args:
        connection: The connection to whoever asked.
        python: The program that stands for the interpreter.
    """

    def __init__(self, connection: socket.socket, python: Path) -> None:
        self.connection, self.python = connection, python
        header, self.streams, _, _ = socket.recv_fds(connection, 4, _MOST_FILES)
        self.request = json.loads(connection.makefile("rb").read(int.from_bytes(header, "big")))
        self.pid = 0

    def hear(self) -> None:
        """Hand a signal on; kill the command if nobody waits for it any more."""
        with suppress(ConnectionResetError):
            if numbers := self.connection.recv(16):
                for number in numbers:
                    os.kill(self.pid, number)
                return
        os.kill(self.pid, signal.SIGKILL)

    def run(self) -> NoReturn:
        """Become the command, in a fork."""
        module, words, folder, variables, numbers = self.request
        # First out of the way of each other.
        moved = [fcntl.fcntl(stream, fcntl.F_DUPFD, 500) for stream in self.streams]
        for stream, number in zip(moved, numbers, strict=True):
            os.dup2(stream, number)
            os.close(stream)
        # Those of the process may be of another kind, such as files that can be sought in.
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
        os.setpgid(0, 0)
        os.chdir(folder)
        sys.argv = [module or "ptl-prefix", *words]
        sys.executable = str(self.python)
        if variables.pop("WARNINGS_ARE_ERRORS", ""):
            warnings.simplefilter("error")
        os.environ.clear()
        os.environ.update(variables)
        # torch read the number when it was imported.
        threads = int(variables.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0))))
        importlib.import_module("torch").set_num_threads(threads)
        code = 1
        try:
            if module is None:
                importlib.import_module("ptl_prefix.commands.main").main()
            else:
                sys.path.insert(0, folder)  # as `-m` does
                runpy.run_module(module, run_name="__main__", alter_sys=True)
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        with suppress(BaseException):
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
            sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)


class _Server:
    """Forks a process for each request until standard input is closed."""

    def __init__(self, address: Path, programs: Path) -> None:
        self._python = programs / "python"
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(address))
        self._socket.listen()
        self._ended = os.pipe()
        self._running: dict[int, _Command] = {}
        os.set_blocking(self._ended[1], False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._ended[1], warn_on_full_buffer=False)
        self._selector = selectors.DefaultSelector()
        for source in (self._socket, self._ended[0], 0):
            self._selector.register(source, selectors.EVENT_READ)

    def serve(self) -> None:
        """Handle one event after another."""
        while True:
            for key, _ in self._selector.select():
                if key.fileobj == 0:
                    return
                if key.fileobj == self._ended[0]:
                    os.read(self._ended[0], 4096)
                    self._report()
                elif key.fileobj is self._socket:
                    self._start()
                elif key.data.pid in self._running:
                    key.data.hear()

    def _start(self) -> None:
        command = _Command(self._socket.accept()[0], self._python)
        command.pid = os.fork()
        if command.pid == 0:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGINT):
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            self._selector.close()
            for end in (self._socket, command.connection, *(one.connection for one in self._running.values())):
                end.close()
            command.run()
        for stream in command.streams:
            os.close(stream)
        self._running[command.pid] = command
        self._selector.register(command.connection, selectors.EVENT_READ, command)

    def _report(self) -> None:
        while self._running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            command: Any = self._running.pop(pid)
            self._selector.unregister(command.connection)
            with suppress(BrokenPipeError):
                command.connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
            command.connection.close()


def main() -> None:
    """Import, listen, and say so with a line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    importlib.import_module("ptl_prefix.backbones.library_logging").silence_library_messages()
    for name in _IMPORTED:
        importlib.import_module(name)
    count = len(os.listdir("/proc/self/task"))
    assert count == 1, f"A process that forks must have one thread, but has {count}."
    server = _Server(*map(Path, sys.argv[1:]))
    print("listening", flush=True)
    server.serve()
    os._exit(0)


if __name__ == "__main__":
    main()
