"""A worker: runs trials one after another and reports what comes of them.

In: a scheduler and a trial server. Out: trials that have ended, until the scheduler has no more jobs. Of a training the
worker knows only what is in the run folder: the validations in its event log, and its record.
"""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from ptl_prefix.artifacts.event_log import ranking_losses, read_events
from ptl_prefix.artifacts.remote.mirror_run import mirror_run
from ptl_prefix.artifacts.remote.mirror_state import read_mirror_state
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import RunRecord, read_record
from ptl_prefix.errors import PtlPrefixError
from ptl_prefix.sweeping.job import EarlyStop, Job, Outcome
from ptl_prefix.sweeping.lease_guard import LeaseGuard
from ptl_prefix.sweeping.liveness import HEARTBEAT_S
from ptl_prefix.sweeping.result_cache import notes_of
from ptl_prefix.sweeping.scheduler import Scheduler
from ptl_prefix.sweeping.trial_processes import LOST, TRIAL_LOG, TrialServer

StopReason = EarlyStop | Literal["interrupted"]

_POLL_S = 0.2
_PAUSES_S = (0.5, 60.0)
"""The shortest and the longest time between two questions of a worker that waits."""
_EXIT_STOPPED = 143
_STOPPING_TIMEOUT_S = 120.0


def next_pause_s(waited_s: float) -> float:
    """Seconds until a worker without a trial asks again: half of what it has waited already.

    At the end of a study, hundreds of workers wait for the last trials. If each asked twice a second, they would keep
    the study's lock from the workers that want to store a result.
    """
    shortest, longest = _PAUSES_S
    return min(max(waited_s / 2, shortest), longest)


class Worker:
    """Runs trials one after another.

    Args:
        scheduler: Chooses the trials.
        server: Starts the trials' processes.
        threads: CPU threads of each trial.
        device: The accelerator that the trials see; `None` hides none.
        notify: Called with a status line for each trial that ended.
        pack: Number of the pack in which the worker's trials run; `None` gives each a process of its own.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        server: TrialServer,
        *,
        threads: int,
        device: int | None,
        notify: Callable[[str], None],
        pack: int | None = None,
    ) -> None:
        self._scheduler, self._server, self._notify = scheduler, server, notify
        self._threads, self._device, self._pack = threads, device, pack
        self.job: Job | None = None
        self.stopping = threading.Event()
        """When set, the worker takes no new trial."""
        self.stopping_now = threading.Event()
        """When set, the worker also stops its running trial."""
        self.study_is_done = threading.Event()
        """When set, a worker that waits asks at once."""

    def run(self) -> None:
        """Run trials until the scheduler has no more or the worker is stopped."""
        waited_s = 0.0
        while not self.stopping.is_set():
            job = "wait" if waited_s and self._scheduler.must_wait() else self._scheduler.next_job()
            if job == "done":
                return
            if job == "wait":
                waited_s += self._pause(next_pause_s(waited_s))
                continue
            waited_s = 0.0
            self.job = job
            try:
                outcome = self._run(job)
            except BaseException:
                self._scheduler.close(job, Outcome("interrupted"))
                raise
            finally:
                self.job = None
            is_recorded = self._scheduler.close(job, outcome)
            if is_recorded:
                self._mirror_again(job, outcome)
            self._notify(_status_line(job, outcome, self._scheduler.spec.objective) if is_recorded else _lost_line(job))

    def _pause(self, seconds: float) -> float:
        """Wait until it is time to ask again, until the worker is stopped, or until another one learns of the end."""
        rest = seconds
        while rest > 0 and not self.study_is_done.is_set() and not self.stopping.wait(min(rest, _PAUSES_S[0])):
            rest -= _PAUSES_S[0]
        self.study_is_done.clear()  # if the study is not done after all, it asks as rarely as before
        return seconds

    def _mirror_again(self, job: Job, outcome: Outcome) -> None:
        """Mirror a trial again that the study has marked as pruned, or whose mirror is behind.

        The study has recorded the outcome under this worker's lease: the trial that has ended is this one, even if
        another process, which had lost the trial before, has written its mirror meanwhile.
        """
        state = read_mirror_state(job.folder.path)
        if state is None or (state.behind is None and outcome.kind != "pruned"):
            return
        try:
            mirror_run(job.folder, is_owner=outcome.kind in ("finished", "pruned", "failed"))
        except PtlPrefixError as error:
            self._notify(f"{job.folder.path} is not mirrored as it is: {error}")

    def _run(self, job: Job) -> Outcome:
        # The lease began before the job was prepared, which may have taken long: renew it before anything runs.
        sent = time.monotonic()
        if self._scheduler.heartbeat(job) == "lost":
            return Outcome("interrupted")
        process = self._server.start(job.folder.path, threads=self._threads, device=self._device, pack=self._pack)
        monitor = _Monitor(self._scheduler, job)
        stop_reason: StopReason | None = None
        next_heartbeat, kill_at = sent + HEARTBEAT_S, float("inf")
        with LeaseGuard(process, sent) as guard:
            while (code := process.wait(_POLL_S)) is None:
                now = time.monotonic()
                if now >= next_heartbeat and stop_reason != "lost":
                    stop_reason = self._send_heartbeat(job, guard) or stop_reason
                    next_heartbeat = now + HEARTBEAT_S
                if kill_at < float("inf"):
                    if now >= kill_at:
                        process.signal("SIGKILL")
                    continue
                if stop_reason is None:
                    stop_reason = "interrupted" if self.stopping_now.is_set() else monitor.early_stop()
                if stop_reason is not None:
                    process.signal("SIGTERM")
                    kill_at = now + _STOPPING_TIMEOUT_S
        if stop_reason is None:
            monitor.early_stop()  # records the last validations; the trial has ended, so the decision comes too late
        outcome = _outcome(job, code, stop_reason, self._scheduler.spec.objective)
        # The guard stopped the trial: that is no attempt of the trial's.
        return Outcome("interrupted", notes=outcome.notes) if guard.expired and outcome.kind == "killed" else outcome

    def _send_heartbeat(self, job: Job, guard: LeaseGuard) -> Literal["lost"] | None:
        """Send a heartbeat, and pass a stop request on. `lost`: another worker has taken the trial."""
        began = time.monotonic()
        request = self._scheduler.heartbeat(job)
        if request == "lost":
            return request
        guard.renew(began)
        if request is not None:
            self.stopping.set()
        if request == "now":
            self.stopping_now.set()
        return None


class _Monitor:
    """Reads a trial's event log while it grows, and reports each new validation to the scheduler.

    Args:
        scheduler: Decides whether the trial stops early.
        job: The running trial.
    """

    def __init__(self, scheduler: Scheduler, job: Job) -> None:
        self._scheduler, self._job = scheduler, job
        self._reported = set(job.trial.intermediate_values)
        self._size = -1

    def early_stop(self) -> EarlyStop | None:
        """Whether the trial pauses or is pruned now; `None` if it continues."""
        for step, value in self._new_validations():
            self._reported.add(step)
            if (decision := self._scheduler.report(self._job, step, value)) is not None:
                return decision
        return None

    def _new_validations(self) -> Iterator[tuple[int, float]]:
        path = self._job.folder.events
        try:
            size = path.stat().st_size
            if size == self._size:
                return
            self._size = size
            events = read_events(path)
        except (OSError, PtlPrefixError):
            return
        yield from ((step, value) for step, value in ranking_losses(events) if step not in self._reported)


def _status_line(job: Job, outcome: Outcome, objective: str) -> str:
    arm = f"{job.trial.arm} " if job.trial.arm else ""
    fact: str = outcome.kind
    if outcome.kind == "finished":
        fact = f"{objective} {outcome.value:.4g}"
    elif outcome.kind == "failed":
        fact = f"failed ({outcome.failure}): {outcome.error}; see {job.folder.path / TRIAL_LOG}"
    return f"{arm}{job.trial.number}: {job.trial.label}: {fact}"


def _lost_line(job: Job) -> str:
    arm = f"{job.trial.arm} " if job.trial.arm else ""
    return (
        f"{arm}{job.trial.number}: {job.trial.label}: another worker has taken this trial, because this one could send "
        "no heartbeat for too long; its result here is not recorded."
    )


def _outcome(job: Job, code: int, stop_reason: StopReason | None, objective: str) -> Outcome:
    """How a trial ended, from its exit code and the files in its run folder."""
    record = _read_record(job.folder)
    notes: dict[str, Any] = notes_of(record) if record is not None else {}
    if code == 0 and record is not None and record.status == "finished":
        if objective not in record.metrics:
            names = ", ".join(sorted(record.metrics))
            return Outcome(
                "failed", failure="no objective", error=f"the record has no {objective}, only {names}", notes=notes
            )
        return Outcome("finished", value=record.metrics[objective], notes=notes)
    if code == _EXIT_STOPPED:
        # Without a reason of ours something else stopped the trial, which counts as an attempt.
        return Outcome("interrupted" if stop_reason == "lost" else stop_reason or "killed", notes=notes)
    if code < 0:
        return Outcome("interrupted" if code == LOST else "killed", notes=notes)
    error = _last_error(job.folder) or _last_line(job.folder.path / TRIAL_LOG) or f"exit code {code}"
    return Outcome("failed", failure=_failure_type(error, code), error=error[:500], notes=notes)


def _failure_type(error: str, code: int) -> str:
    """The failure's type, one of `FAILURES`."""
    name = error.partition(":")[0].strip()
    if name.endswith("NonFiniteLossError"):
        return "non-finite loss"
    if name.endswith(("OutOfMemoryError", "MemoryError")) or "out of memory" in error:
        return "out of memory"
    return "config" if code == 2 or name.endswith("ConfigError") else "crash"


def _read_record(folder: RunFolder) -> RunRecord | None:
    try:
        return read_record(folder.record)
    except PtlPrefixError:
        return None


def _last_error(folder: RunFolder) -> str | None:
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
