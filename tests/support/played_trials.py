"""Trials that are functions: a trial server for a worker, without processes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from support.made_up_runs import MadeUp

from ptl_prefix.artifacts.event_log import EventLog, read_events
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import write_record
from ptl_prefix.sweeping.scheduler import Scheduler
from ptl_prefix.sweeping.worker import Worker

Play = Callable[[RunFolder, "PlayedProcess"], int]

RUNNING = 1000
"""Returned instead of an exit code while the trial runs."""

record = MadeUp().record


class PlayedProcess:
    """Stands for a process: each wait calls a function, until that returns an exit code."""

    def __init__(self, folder: RunFolder, play: Play) -> None:
        self._folder, self._play = folder, play
        self.signals: list[str] = []

    def wait(self, timeout_s: float) -> int | None:
        code = self._play(self._folder, self)
        return None if code == RUNNING else code

    def signal(self, name: str) -> None:
        self.signals.append(name)


class PlayedServer:
    """Stands for a trial server."""

    def __init__(self, play: Play) -> None:
        self._play = play

    def start(self, folder: Path, *, threads: int, device: int | None, pack: int | None) -> PlayedProcess:
        return PlayedProcess(RunFolder(folder), self._play)


def work(scheduler: Scheduler, play: Play) -> list[str]:
    """Run a worker until the study is done, and return its status lines."""
    lines: list[str] = []
    Worker(scheduler, PlayedServer(play), threads=1, device=None, notify=lines.append).run()  # type: ignore[arg-type]
    return lines


def validates(*losses: float, every: int = 10) -> Play:
    """A trial that logs one more validation at each wait, and stops with a record after SIGTERM."""

    def play(folder: RunFolder, process: PlayedProcess) -> int:
        if "SIGTERM" in process.signals:
            write_record(folder.record, replace(record(), status="stopped", metrics={}))
            return 143
        number = len(read_events(folder.events)) if folder.events.exists() else 0
        if number == len(losses):
            write_record(folder.record, replace(record(), status="finished", metrics={"val/loss": losses[-1]}))
            return 0
        with EventLog(folder.events) as log:
            log.write("validation", step=every * (number + 1), **{"val/loss": losses[number]})
        return RUNNING

    return play
