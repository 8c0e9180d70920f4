"""What really happened to each trial, kept apart from what the study stores, and whether the two agree.

In: each process that began and ended, and each result that was recorded. Out: the numbers of a simulation, among them
the trials that were lost and those that ran twice, which must be 0.
"""

from collections import Counter
from typing import TYPE_CHECKING, Any

from ptl_prefix.sweeping.job import Job
from ptl_prefix.sweeping.trial import Trial

if TYPE_CHECKING:
    from benchmarks.sweep_scale.process import Process


MUST_BE_NONE = ("lost", "run in two places", "run after their end", "results recorded twice", "points tried twice")
"""The facts that must be 0, or the scheduler is wrong."""


class Ledger:
    """Counts by trial."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._running: dict[int, set[Process]] = {}
        self._results: Counter[int] = Counter()
        self._in_two_places: set[int] = set()
        self._after_end: set[int] = set()
        self._ended: set[int] = set()
        self.steps = 0

    def handed_out(self, job: Job) -> None:
        """A worker received a job."""
        self.counts[f"handed out: {job.origin}"] += 1
        if job.trial.number in self._ended:
            self._after_end.add(job.trial.number)

    def process_started(self, process: "Process") -> None:
        """A trial's process began to train."""
        running = self._running.setdefault(process.number, set())
        if running:
            self._in_two_places.add(process.number)
        running.add(process)

    def process_ended(self, process: "Process", steps: int) -> None:
        """A trial's process ended after some steps."""
        self._running[process.number].discard(process)
        self.steps += steps

    def closed(self, number: int, kind: str, *, is_recorded: bool) -> None:
        """A worker reported how its job ended."""
        self.counts[f"closed: {kind}" if is_recorded else "results refused: the trial was another worker's"] += 1
        if is_recorded and kind in ("finished", "pruned", "failed"):
            self._results[number] += 1
            self._ended.add(number)

    def facts(self, trials: list[Trial], num_planned: int) -> dict[str, Any]:
        """The numbers that must be right, from this ledger and from the study's trials at the end."""
        counted = [trial for trial in trials if trial.state != "discarded"]
        states = Counter(trial.state for trial in counted)
        ended = states["finished"] + states["pruned"]
        return {
            "states": dict(states),
            "lost": num_planned - ended + states["running"] + states["interrupted"] + states["paused"],
            "run in two places": len(self._in_two_places),
            "run after their end": len(self._after_end),
            "results recorded twice": sum(times > 1 for times in self._results.values()),
            "points tried twice": len(counted) - len({trial.overrides for trial in counted}),
            "discarded proposals": len(trials) - len(counted),
            "steps": self.steps,
            "counts": dict(self.counts),
        }
