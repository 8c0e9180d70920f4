"""The simulated process of a trial: it trains from the last checkpoint on, validates, and saves what it has.

In: a job and the speed of its node. Out: checkpoints, validations for its worker, and an exit code, at their times.
"""

from typing import TYPE_CHECKING

from ptl_prefix.sweeping.job import Job

if TYPE_CHECKING:
    from benchmarks.sweep_scale.worker import SimulatedWorker

_SAVING_S = 2.0
"""Seconds in which a trial that is asked to stop saves its checkpoint."""


class Process:
    """The process that trains a trial, from the last checkpoint on.

    Args:
        worker: The worker that started it.
        job: The trial.
    """

    def __init__(self, worker: "SimulatedWorker", job: Job) -> None:
        self._worker, self._cluster, self.job = worker, worker.cluster, job
        self.number = job.trial.number
        self.code: int | None = None
        self._first = self._cluster.checkpoints.get(self.number, 0)
        self._begins = self._cluster.events.now + self._cluster.settings.start_s
        self._cluster.ledger.process_started(self)
        self._train()

    @property
    def step(self) -> int:
        """The step that it has reached."""
        trained = int((self._cluster.events.now - self._begins + 1e-6) / self._worker.node.step_s)
        return min(self._first + max(trained, 0), self.job.max_steps)

    def _train(self) -> None:
        every = self._cluster.settings.validate_every
        following = min((self.step // every + 1) * every, self.job.max_steps)
        self._cluster.events.at(self._begins + (following - self._first) * self._worker.node.step_s, self._validate)

    def _validate(self) -> None:
        if self.code is not None:
            return
        self._cluster.checkpoints[self.number] = self.step
        self._worker.validated(self, self.step)
        if self.step >= self.job.max_steps:
            self.end(0)
        else:
            self._train()

    def stop(self) -> None:
        """Ask it to save a checkpoint and stop."""

        def save() -> None:
            if self.code is None:
                self._cluster.checkpoints[self.number] = max(self.step, self._cluster.checkpoints.get(self.number, 0))
                self.end(143)

        self._cluster.events.after(_SAVING_S, save)

    def end(self, code: int) -> None:
        """End it, at once."""
        if self.code is None:
            self.code = code
            self._cluster.ledger.process_ended(self, self.step - self._first)
            self._worker.wake()
