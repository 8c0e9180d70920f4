"""One worker: takes a job, starts its trial, watches it, and writes down what came of it.

In: a scheduler and a host for processes. Out: trials that have ended, one after the other, until the scheduler has no
more. A worker knows of training only what lies in the run's folder: the validations in its log, and its record.
"""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ptl_prefix.artifacts.event_log import read_events, validation_losses
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import RunRecord, read_record
from ptl_prefix.errors import PtlPrefixError
from ptl_prefix.sweeping.liveness import BEAT_S
from ptl_prefix.sweeping.pruners import SuccessiveHalving, is_promoted
from ptl_prefix.sweeping.result_cache import notes_of
from ptl_prefix.sweeping.scheduler import Job, Outcome, Scheduler
from ptl_prefix.sweeping.trial_processes import LOST, TrialServer

_GLANCE_S = 0.2
_IDLE_S = 0.5
_STOPPED = 143
_MOST_STOPPING_S = 120.0


class Worker:
    """Runs trials one at a time.

    Args:
        scheduler: Hands out jobs.
        host: Starts processes.
        threads: CPU threads of each trial.
        device: The accelerator that its trials see.
        say: Told in a sentence what happened.
    """

    def __init__(
        self, scheduler: Scheduler, host: TrialServer, *, threads: int, device: int | None, say: Callable[[str], None]
    ) -> None:
        self._scheduler, self._host, self._threads, self._device, self._say = scheduler, host, threads, device, say
        self.job: Job | None = None
        self.stopping = threading.Event()
        """Set: take nothing new."""
        self.stopping_now = threading.Event()
        """Set: stop what runs, too."""

    def run(self) -> None:
        """Until the scheduler has nothing more, or this worker is stopped."""
        while not self.stopping.is_set():
            job = self._scheduler.next()
            if job == "done":
                return
            if job == "wait":
                self.stopping.wait(_IDLE_S)
                continue
            self.job = job
            try:
                outcome = self._run(job)
            except BaseException:
                self._scheduler.close(job, Outcome("released"))
                raise
            finally:
                self.job = None
            self._scheduler.close(job, outcome)
            self._say_what_came(job, outcome)

    def _run(self, job: Job) -> Outcome:
        running = self._host.start(job.folder.path, threads=self._threads, device=self._device)
        watch = _Watch(self._scheduler, job)
        verdict: str | None = None
        beat_at, stop_by = time.monotonic() + BEAT_S, float("inf")
        while (code := running.wait(_GLANCE_S)) is None:
            now = time.monotonic()
            if now >= beat_at:
                self._scheduler.store.beat(job.trial)
                beat_at = now + BEAT_S
                stop = self._scheduler.store.stop
                if stop is not None:
                    self.stopping.set()
                if stop == "now":
                    self.stopping_now.set()
            if verdict is None:
                verdict = "released" if self.stopping_now.is_set() else watch.verdict()
                if verdict is not None:
                    running.signal("SIGTERM")
                    stop_by = now + _MOST_STOPPING_S
            elif now >= stop_by:
                running.signal("SIGKILL")
        # What it logged after the last glance counts as well: a trial that ended by itself has ended.
        if verdict is None:
            watch.verdict()
        return _outcome(job, code, verdict, watch, self._scheduler.spec.objective)

    def _say_what_came(self, job: Job, outcome: Outcome) -> None:
        arm = f"{job.trial.arm} " if job.trial.arm else ""
        fact = {
            "finished": f"{self._scheduler.spec.objective} {outcome.value:.4g}" if outcome.value is not None else "",
            "failed": f"failed ({outcome.failure}): {outcome.error}; see {job.folder.path / 'log.txt'}",
        }.get(outcome.kind, outcome.kind)
        self._say(f"{arm}{job.trial.number}: {job.trial.label}: {fact}")


class _Watch:
    """Reads a trial's log as it grows, tells the study of each validation, and judges.

    Args:
        scheduler: Told.
        job: What is watched.
    """

    def __init__(self, scheduler: Scheduler, job: Job) -> None:
        self._scheduler, self._job = scheduler, job
        self._known = set(job.trial.frozen.intermediate_values)
        self._rungs = scheduler.pruner.rungs(job.max_steps)
        self._size = -1
        self.paused_at: int | None = None
        self._is_searched = scheduler.spec.objective == "val/loss"

    def verdict(self) -> str | None:
        """Whether the trial shall stop: `paused` or `pruned`; `None`: it goes on."""
        for step, value in self._new_values():
            self._known.add(step)
            if self._is_searched and (verdict := self._judge(step, value)) is not None:
                return verdict
        return None

    def _new_values(self) -> Iterator[tuple[int, float]]:
        path = self._job.folder.events
        try:
            size = path.stat().st_size
            if size == self._size:
                return
            self._size = size
            events = read_events(path)
        except (OSError, PtlPrefixError):
            return
        yield from ((step, value) for step, value in validation_losses(events) if step not in self._known)

    def _judge(self, step: int, value: float) -> str | None:
        scheduler, trial = self._scheduler, self._job.trial
        scheduler.store.report(trial, step, value)
        if step >= self._job.max_steps:
            return None
        if isinstance(scheduler.pruner, SuccessiveHalving):
            return self._at_rungs(step, value, scheduler.pruner.reduction_factor)
        pruner = scheduler.pruner.make(self._job.max_steps)
        should_stop = pruner.prune(scheduler.store.study(trial.arm), scheduler.store.again(trial).frozen)
        return "pruned" if should_stop else None

    def _at_rungs(self, step: int, value: float, reduction_factor: int) -> str | None:
        """Pause at the highest rung that was newly reached, unless the trial is among the best there."""
        spec, store, trial = self._scheduler.spec, self._scheduler.store, self._job.trial
        trials = {one.number: one.rungs for one in store.trials(trial.arm)}
        own = trials.pop(trial.number)
        reached = [rung for rung in self._rungs if rung <= step and rung not in own]
        store.note(trial, **{f"rung_{rung}": spec.sign * value for rung in reached})
        if not reached:
            return None
        rung = reached[-1]
        others = [values[rung] for values in trials.values() if rung in values]
        if is_promoted(spec.sign * value, others, reduction_factor):
            return None
        self.paused_at = rung
        return "paused"


def _outcome(job: Job, code: int, verdict: str | None, watch: _Watch, objective: str) -> Outcome:
    """What an exit code means, together with what the trial left in its folder."""
    record = _record(job.folder)
    notes: dict[str, Any] = notes_of(record) if record is not None else {}
    if code == 0 and record is not None and record.status == "finished":
        if objective not in record.metrics:
            there = ", ".join(sorted(record.metrics))
            return Outcome(
                "failed", failure="no objective", error=f"there is no {objective}, only {there}", notes=notes
            )
        return Outcome("finished", value=record.metrics[objective], notes=notes)
    if code == _STOPPED:
        if verdict == "paused":
            return Outcome("paused", notes={**notes, "paused_at": watch.paused_at})
        if verdict == "pruned":
            return Outcome("pruned", notes=notes)
        # Somebody else stopped it; who does so again and again means it.
        return Outcome("released" if verdict == "released" else "killed", notes=notes)
    if code < 0:
        return Outcome("killed" if code != LOST else "released", notes=notes)
    error = _error(job.folder) or _last_line(job.folder.path / "log.txt") or f"exit code {code}"
    return Outcome("failed", failure=_kind(error, code), error=error[:500], notes=notes)


def _kind(error: str, code: int) -> str:
    """Which of `FAILURES` it is."""
    name = error.partition(":")[0].strip()
    if name.endswith("NonFiniteLossError"):
        return "not a number"
    if name.endswith(("OutOfMemoryError", "MemoryError")) or "out of memory" in error:
        return "out of memory"
    return "config" if code == 2 or name.endswith("ConfigError") else "crash"


def _record(folder: RunFolder) -> RunRecord | None:
    try:
        return read_record(folder.record)
    except PtlPrefixError:
        return None


def _error(folder: RunFolder) -> str | None:
    try:
        errors = [event["error"] for event in read_events(folder.events) if event["kind"] == "error"]
    except PtlPrefixError:
        return None
    return str(errors[-1]) if errors else None


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1] if lines else ""
