"""A simulated worker, with the protocol of `ptl_prefix/sweeping/worker.py`.

In: the real scheduler's answers. Out: the calls of a worker (next job, heartbeat, report, close) at the times at which
a worker would make them, unless it dies before. The seconds of heartbeats, pauses and the guard are the real ones.
"""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from benchmarks.sweep_scale.process import Process
from benchmarks.sweep_scale.settings import NEVER, objective
from ptl_prefix.sweeping.job import Job, Outcome
from ptl_prefix.sweeping.lease_guard import STOP_S
from ptl_prefix.sweeping.liveness import HEARTBEAT_S
from ptl_prefix.sweeping.storage import READ_EVERY_S
from ptl_prefix.sweeping.worker import next_pause_s

if TYPE_CHECKING:
    from benchmarks.sweep_scale.cluster import Cluster
    from benchmarks.sweep_scale.node import Node


class SimulatedWorker:
    """A worker.

    Args:
        cluster: Everything else.
        node: The machine.
    """

    def __init__(self, cluster: "Cluster", node: "Node") -> None:
        self.cluster, self.node = cluster, node
        self.pid = 0
        self._life, self._phase = 0, "down"
        self._forget()

    def _forget(self) -> None:
        self.process: Process | None = None
        self._job: Job | None = None
        self._validations: deque[int] = deque()
        self._reason: str | None = None
        self._next_heartbeat, self._sent = NEVER, 0.0
        self._free_at, self._has_turn, self._waited_s = 0.0, False, 0.0
        self.is_stopping = False

    # Life

    def start(self) -> None:
        """Start the worker's process."""
        if self.pid == 0 and self.node.is_up:
            self._forget()
            self.pid = self.node.new_pid()
            self._ask()

    def die(self, *, with_node: bool = False) -> None:
        """Lose the worker's process. Its trial saves a checkpoint, unless the whole node dies."""
        if self.pid == 0:
            return
        self.node.pids.pop(self.pid)
        self.pid, self._life = 0, self._life + 1
        if self.process is not None and self.process.code is None:
            if with_node:
                self.process.end(-9)
            else:
                self.cluster.hold_folder(self.process)
                self.process.stop()
        self._forget()
        self._change("down")

    @property
    def is_busy(self) -> bool:
        """Whether it still has something to do."""
        return self._phase not in ("down", "stopped")

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        life = self._life
        self.cluster.events.after(seconds, lambda: action() if self._life == life else None)

    def _change(self, phase: str) -> None:
        self.cluster.phases.change(self._phase, phase)
        self._phase = phase

    # Under the lock

    def _request(self, act: Callable[[], float]) -> None:
        self._change("waiting for the lock")
        self._read_meanwhile()
        life = self._life

        def still_waits() -> bool:
            if self._life == life and self.node.is_cut_off:
                self._later(self.node.cut_off_until - self.cluster.events.now, lambda: self._request(act))
                return False
            return self._life == life

        self.cluster.lock.request(still_waits, act)

    def _read_meanwhile(self) -> None:
        """Read what others write, until the lock is there."""
        if self._phase == "waiting for the lock":
            self.cluster.has_read(self)
            self._later(READ_EVERY_S, self._read_meanwhile)

    def _ask(self) -> None:
        if self.is_stopping:
            self._change("stopped")
        elif self._waited_s and not self.node.is_cut_off:
            self._look()
        else:
            self._request(self._next_job)

    def _look(self) -> None:
        """Ask without the lock whether it must wait still."""
        self.cluster.has_read(self)
        with self.cluster.acting(self, "look") as spent:
            must_wait = self.cluster.scheduler.must_wait()
        after_s = spent.after_s + self.cluster.settings.decision_s
        if must_wait:
            self._pause(after_s)
        else:
            self._later(after_s, lambda: self._request(self._next_job))

    def _pause(self, after_s: float) -> None:
        pause_s = next_pause_s(self._waited_s)
        self._waited_s += pause_s
        self._later(after_s, lambda: self._change("without a trial"))
        self._later(after_s + pause_s, self._ask)

    def _next_job(self) -> float:
        self._change("deciding")
        with self.cluster.acting(self, "next", may_die=True) as spent:
            answer = self.cluster.scheduler.next_job()
            spent.kind = f"next: {answer.origin if isinstance(answer, Job) else answer}"
        if self.pid == 0:
            return spent.locked_s
        if isinstance(answer, Job):
            self._waited_s = 0.0
            self._later(spent.locked_s + spent.after_s, lambda: self._start_trial(answer))
        elif answer == "wait":
            self._pause(spent.locked_s)
        else:
            self._later(spent.locked_s, lambda: self._change("stopped"))
            self.cluster.is_done = True
        return spent.locked_s

    def _close(self, job: Job, outcome: Outcome) -> float:
        self._change("deciding")
        with self.cluster.acting(self, "close", may_die=True) as spent:
            is_recorded = self.cluster.scheduler.close(job, outcome)
            self.cluster.ledger.closed(job.trial.number, outcome.kind, is_recorded=is_recorded)
        if self.pid:
            self._job = self.process = None
            self._later(spent.locked_s, self._ask)
        return spent.locked_s

    # With a trial

    def _start_trial(self, job: Job) -> None:
        self.cluster.ledger.handed_out(job)
        self._job, self._reason, self._validations = job, None, deque()
        self._reported = set(job.trial.intermediate_values)
        self._change("training")
        if self.node.is_cut_off:  # the first heartbeat waits
            self._later(self.node.cut_off_until - self.cluster.events.now, lambda: self._begin(job))
        else:
            self._begin(job)

    def _begin(self, job: Job) -> None:
        self._sent = self.cluster.events.now
        with self.cluster.acting(self, "heartbeat"):
            lease = self.cluster.scheduler.heartbeat(job)
        if lease == "lost" or self.is_stopping:
            self._request(lambda: self._close(job, Outcome("interrupted")))
            return
        self.process = Process(self, job)
        self._next_heartbeat = self._sent + HEARTBEAT_S
        self._later(HEARTBEAT_S, self.wake)
        self._guard(self.process)

    def _guard(self, process: Process) -> None:
        """What `LeaseGuard` does in a thread."""

        def check() -> None:
            if process.code is not None:
                return
            if self.cluster.events.now - self._sent >= STOP_S - 1e-6:
                self._reason = self._reason or "interrupted"
                self.cluster.ledger.counts["stopped by the guard"] += 1
                process.stop()
            else:
                self._guard(process)

        self._later(self._sent + STOP_S - self.cluster.events.now, check)

    def validated(self, process: Process, step: int) -> None:
        """Note a validation in the trial's log, which the worker reads at its next turn."""
        if process is self.process:
            self._validations.append(step)
            self.wake()

    def wake(self) -> None:
        """Give the worker's loop a turn as soon as it is free and reaches the storage."""
        if self._job is None or self.process is None or self._has_turn:
            return
        self._has_turn = True
        at = max(self._free_at, self.node.cut_off_until if self.node.is_cut_off else 0.0)
        self._later(max(at - self.cluster.events.now, 0.0), self._take_turn)

    def _take_turn(self) -> None:
        self._has_turn = False
        process, job = self.process, self._job
        if process is None or job is None:
            return
        if self.node.is_cut_off:
            self.wake()
            return
        now = self.cluster.events.now
        if process.code is None and now >= self._next_heartbeat - 1e-6 and self._reason != "lost":
            self._heartbeat(process, job)
        elif self._validations and self._reason is None:
            self._report(process, job, self._validations.popleft())
        elif process.code is not None:
            self._next_heartbeat = NEVER
            outcome = self._outcome(process, job)
            self._job = None
            self._request(lambda: self._close(job, outcome))

    def _heartbeat(self, process: Process, job: Job) -> None:
        now = self.cluster.events.now
        with self.cluster.acting(self, "heartbeat") as spent:
            answer = self.cluster.scheduler.heartbeat(job)
        self._after_turn(spent.after_s)
        self._next_heartbeat = now + HEARTBEAT_S
        if answer == "lost":
            self._reason = "lost"
            process.stop()
        else:
            self._sent = now
            self._later(HEARTBEAT_S, self.wake)

    def _report(self, process: Process, job: Job, step: int) -> None:
        if step not in self._reported:
            with self.cluster.acting(self, "report") as spent:
                decision = self.cluster.scheduler.report(job, step, objective(job.trial.number, step))
            self._reported.add(step)
            if decision is not None and process.code is None:
                self._reason = decision
                process.stop()
            self._after_turn(spent.after_s)
        else:
            self._after_turn(0.0)

    def _after_turn(self, seconds: float) -> None:
        self._free_at = self.cluster.events.now + seconds
        self.wake()

    def stop_now(self) -> None:
        """What a preempted worker does: its trial saves a checkpoint, and it takes no other."""
        self.is_stopping = True
        if self.process is not None and self.process.code is None:
            self._reason = self._reason or "interrupted"
            self.process.stop()

    def _outcome(self, process: Process, job: Job) -> Outcome:
        if process.code == 0:
            return Outcome("finished", value=objective(job.trial.number, job.max_steps))
        if process.code == 143 and self._reason in ("paused", "pruned"):
            return Outcome("paused" if self._reason == "paused" else "pruned")
        return Outcome("killed" if self._reason is None else "interrupted")
