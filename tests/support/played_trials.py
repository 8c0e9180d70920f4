"""Trials that are functions: a host for a worker, and no process."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from support.made_up_runs import MadeUp

from ptl_prefix.artifacts.event_log import EventLog, read_events
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import write_record
from ptl_prefix.sweeping.scheduler import Scheduler
from ptl_prefix.sweeping.worker import Worker

Play = Callable[[RunFolder, "Played"], int]

STILL = 1000
"""Not an exit code: it is at work."""

record = MadeUp().record


class Played:
    """A process that is none: its part is played each time that it is waited for, until that gives an exit code."""

    def __init__(self, folder: RunFolder, play: Play) -> None:
        self._folder, self._play = folder, play
        self.signals: list[str] = []

    def wait(self, timeout_s: float) -> int | None:
        code = self._play(self._folder, self)
        return None if code == STILL else code

    def signal(self, name: str) -> None:
        self.signals.append(name)


class PlayedHost:
    def __init__(self, play: Play) -> None:
        self._play = play

    def start(self, folder: Path, *, threads: int, device: int | None) -> Played:
        return Played(RunFolder(folder), self._play)


def work(one: Scheduler, play: Play) -> list[str]:
    said: list[str] = []
    Worker(one, PlayedHost(play), threads=1, device=None, say=said.append).run()  # type: ignore[arg-type]
    return said


def validates(*losses: float, every: int = 10) -> Play:
    """A trial that logs a validation at each glance, from where its log ends, and saves when it is told to stop."""

    def play(folder: RunFolder, process: Played) -> int:
        if "SIGTERM" in process.signals:
            write_record(folder.record, replace(record(), status="stopped", metrics={}))
            return 143
        number = len(read_events(folder.events)) if folder.events.exists() else 0
        if number == len(losses):
            write_record(folder.record, replace(record(), status="finished", metrics={"val/loss": losses[-1]}))
            return 0
        with EventLog(folder.events) as log:
            log.write("validation", step=every * (number + 1), **{"val/loss": losses[number]})
        return STILL

    return play
