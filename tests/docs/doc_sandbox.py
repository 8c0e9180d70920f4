"""Runs a page's blocks in order, in one folder of their own.

In: a `Page`, and an empty folder. Out: a list of `Failure`s, empty when the page is true. Console blocks share one
shell and Python blocks one interpreter, so that variables live on; neither reaches the network or the reader's home.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from doc_pages import CHECKOUT, Block, Page, commands_of
from support.command_server import clean_environment, command_server

_TIMEOUT_S = 900.0
_NOT_COPIED = shutil.ignore_patterns(".*", "_build", "outputs", "__pycache__", "*.egg-info", "dist", "build")
_PYTHON = """
import os, sys, traceback
globals_of_the_page = {"__name__": "__main__"}
channel = os.fdopen(3, "w")
for line in sys.stdin:
    name, output = line.rstrip("\\n").split("\\t")
    code, shown = 0, os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(shown, 1), os.dup2(shown, 2), os.close(shown)
    try:
        exec(compile(open(name, encoding="utf-8").read(), name, "exec"), globals_of_the_page)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush(), sys.stderr.flush()
    print(code, file=channel, flush=True)
"""
_SHELL = """
while IFS=$'\\t' read -r name output; do . "$name" >"$output" 2>&1 </dev/null 3>&-; echo $? >&3; done
"""


@dataclass(frozen=True)
class Failure:
    """Something that a page says and that is not so."""

    line: int
    what: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.what}"


@dataclass(frozen=True)
class Outcome:
    """What came of one command or one Python block: its exit code, and both of its streams in one text."""

    code: int
    output: str


class Session:
    """A shell or an interpreter that runs one text after another and keeps its variables.

    Args:
        command: How it is started; it reads names of files from standard input and answers on descriptor 3.
        folder: Where it works.
        scratch: A folder for what is run and what came of it.
        environment: Its variables.
    """

    def __init__(self, command: Sequence[str], folder: Path, scratch: Path, environment: dict[str, str]) -> None:
        self._scratch = scratch
        self._count = 0
        answers, to_us = os.pipe()
        # Whatever it starts stays in its process group, which `close` ends.
        self._process = subprocess.Popen(
            # A pipe's number is ours to choose only in the child: bash moves it to 3.
            ["bash", "-c", f'exec 3>&{to_us} {to_us}>&-; exec "$@"', "bash", *command],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(to_us,),
            text=True,
            start_new_session=True,
        )
        os.close(to_us)
        self._answers = os.fdopen(answers)

    def run(self, text: str, timeout_s: float = _TIMEOUT_S) -> Outcome:
        """Run a text; a session that it ends gives the session's own exit code."""
        self._count += 1
        source, output = (self._scratch / f"{id(self)}_{self._count}.{end}" for end in ("source", "output"))
        source.write_text(text, encoding="utf-8")
        assert self._process.stdin is not None
        self._process.stdin.write(f"{source}\t{output}\n")
        self._process.stdin.flush()
        with _Alarm(timeout_s):
            answer = self._answers.readline()
        shown = output.read_text(encoding="utf-8", errors="replace") if output.is_file() else ""
        return Outcome(int(answer) if answer else self._process.wait(), shown)

    def close(self) -> None:
        """End it, and whatever it left running."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        for end in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, end)
                self._process.wait(timeout=5)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
        self._answers.close()


class _Alarm:
    """Raises `TimeoutError` in the main thread after some seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        def late(*_: object) -> None:
            raise TimeoutError(f"it took more than {self._seconds:.0f} s")

        self._usual = signal.signal(signal.SIGALRM, late)
        signal.setitimer(signal.ITIMER_REAL, self._seconds)

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._usual)


class Sandbox:
    """The folder in which a page's blocks run, and their shell and interpreter.

    Args:
        folder: An empty folder.
        with_checkout: Whether the blocks find a copy of the checkout there.
        warm: Whether `ptl-prefix` is forked from a process that has imported everything.
    """

    def __init__(self, folder: Path, *, with_checkout: bool = False, warm: bool = False) -> None:
        self.work, home, self._scratch = (folder / name for name in ("work", "home", "scratch"))
        home.mkdir(parents=True)
        self._scratch.mkdir()
        if with_checkout:
            shutil.copytree(CHECKOUT, self.work, ignore=_NOT_COPIED)
        self.work.mkdir(exist_ok=True)
        self._environment = clean_environment(home, [str(self.work)] if with_checkout else [])
        if warm:
            programs = f"{command_server().program.parent}{os.pathsep}"
            self._environment["PATH"] = programs + self._environment["PATH"]
        self._sessions: dict[str, Session] = {}
        self._last = ""

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_: object) -> None:
        for session in self._sessions.values():
            session.close()

    def check(self, block: Block) -> list[Failure]:
        """Run one block, or do with it what its marker says; what is not as the page says."""
        if "file" in block.markers:
            path = self.work / block.markers["file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
            return []
        if {"skip", "parse"} & set(block.markers):
            return []
        if block.language == "console":
            failures = [self._checked(block, shortened(one.text, block), one.output) for one in commands_of(block)]
            return [failure for failure in failures if failure is not None]
        if block.language == "python":
            failure = self._checked(block, block.text, ())
            return [] if failure is None else [failure]
        missing = missing_lines(block.text.splitlines(), self._last) if "output" in block.markers else []
        return [Failure(block.line, _not_shown("the block above", missing, self._last))] if missing else []

    def _checked(self, block: Block, text: str, shown: Sequence[str]) -> Failure | None:
        name = text.strip().splitlines()[0] if block.language == "console" else "the Python block"
        try:
            outcome = self._session(block.language).run(text)
        except TimeoutError as error:
            return Failure(block.line, f"{name}: {error}")
        self._last = outcome.output
        if (outcome.code != 0) != ("fails" in block.markers):
            law = "must fail" if "fails" in block.markers else "must exit with 0"
            return Failure(block.line, f"{name} {law}, but exited with {outcome.code}:\n{outcome.output[-4000:]}")
        missing = missing_lines(shown, outcome.output) if {"output", "fails"} & set(block.markers) else []
        return Failure(block.line, _not_shown(name, missing, outcome.output)) if missing else None

    def _session(self, language: str) -> Session:
        if language not in self._sessions:
            command = ["bash", "-c", _SHELL] if language == "console" else [sys.executable, "-c", _PYTHON]
            self._sessions[language] = Session(command, self.work, self._scratch, self._environment)
        return self._sessions[language]


def run_page(page: Page, folder: Path) -> list[Failure]:
    """Run the blocks of a page; the first that fails ends it, as the others build on it."""
    # In a copy of the checkout, the package must be that copy's.
    warm = not page.in_checkout and any("ptl-prefix" in block.text for block in page.active)
    with Sandbox(folder, with_checkout=page.in_checkout, warm=warm) as sandbox:
        for block in page.active:
            if failures := sandbox.check(block):
                return failures
    return []


def shortened(command: str, block: Block) -> str:
    """The command with the settings of the block's `briefly`: in place of its own, or added if it trains."""
    for setting in block.markers.get("briefly", "").split():
        key = setting.partition("=")[0]
        command, count = re.subn(rf"(?<![\w.]){re.escape(key)}=[^\s\"]+", setting, command)
        if not count and re.match(r"ptl-prefix (train|sweep run) ", command):
            command += f" {setting}"
    return command


def missing_lines(shown: Sequence[str], real: str) -> list[str]:
    """Lines that are shown and are not in the real output; `...` or `…` in a line stands for anything."""
    lines = [" ".join(line.split()) for line in real.splitlines()]
    return [line for line in shown if not any(_pattern(line).fullmatch(one) for one in lines) and _says(line)]


def _says(line: str) -> bool:
    return bool(line.strip(" .…"))


def _pattern(line: str) -> re.Pattern[str]:
    parts = re.split(r"\.\.\.|…", " ".join(line.split()))
    return re.compile(".*".join(re.escape(part) for part in parts))


def _not_shown(name: str, missing: Sequence[str], real: str) -> str:
    return f"{name} must show\n  {chr(10).join(missing)}\nbut shows:\n{real[-4000:]}"
