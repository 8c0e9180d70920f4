"""The simulated cluster: nodes that fail, their workers, and the one real scheduler that all of them ask.

In: `ClusterSettings` and a folder. Out: a study that has ended, and the report of how.
"""

import random
import resource
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from benchmarks.sweep_scale.events import Events, Phases, StudyLock
from benchmarks.sweep_scale.ledger import Ledger
from benchmarks.sweep_scale.node import Node
from benchmarks.sweep_scale.process import Process
from benchmarks.sweep_scale.settings import NEVER, ClusterSettings
from benchmarks.sweep_scale.storage import CountedJournal, SimulatedStorage, WorkerDied
from benchmarks.sweep_scale.study import make_pruner, make_spec
from benchmarks.sweep_scale.worker import SimulatedWorker
from ptl_prefix.artifacts.file_lock import FileLock
from ptl_prefix.sweeping.liveness import Liveness
from ptl_prefix.sweeping.proposer import Proposer
from ptl_prefix.sweeping.samplers import RandomPoints
from ptl_prefix.sweeping.scheduler import Scheduler
from ptl_prefix.sweeping.trial_store import TrialStore

_MEASURED_EVERY = 53
_BIN = 500
"""Trials of a study between two entries of the scheduler's processor time."""


@dataclass
class Spent:
    """What one worker does, and the seconds of its operations with the lock and after it."""

    kind: str
    locked_s: float = 0.0
    after_s: float = 0.0


class Cluster:
    """A study on a cluster.

    Args:
        settings: What is simulated.
        folder: An empty folder for the study.
        progress: Gets a line now and then; `None` gets nothing.
    """

    def __init__(self, settings: ClusterSettings, folder: Path, progress: IO[str] | None = None) -> None:
        self.settings, self._folder, self._progress = settings, folder, progress
        self.draws = random.Random(settings.seed)
        self.events, self.ledger = Events(), Ledger()
        self.lock, self.phases = StudyLock(self.events), Phases(self.events, settings.workers)
        self.checkpoints: dict[int, int] = {}
        self.num_processes, self._num_calls, self.is_done = 0, 0, False
        self._acting: SimulatedWorker | None = None
        self._has_composed = False
        self._read_until: dict[tuple[str, int], int] = {}
        self.replayed = 0
        self._cpu: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(lambda: [0, 0.0]))
        folder.mkdir(parents=True, exist_ok=True)
        self.journal = CountedJournal(settings, lambda: self.events.now)
        self.scheduler = self._make_scheduler()
        per_node = settings.workers_per_node
        self.nodes = [
            Node(self, number, min(per_node, settings.workers - first))
            for number, first in enumerate(range(0, settings.workers, per_node))
        ]

    def _make_scheduler(self) -> Scheduler:
        pruner = make_pruner(self.settings)
        store = TrialStore(
            self._folder,
            make_spec(self.settings),
            SimulatedStorage(self._folder, self.journal),
            Liveness(
                clock=lambda: self.events.now + self._node.clock_error_s,
                machine=lambda: self._node.machine,
                pid=lambda: self._acting.pid if self._acting else 0,
                start_time=lambda pid: self._node.pids.get(pid),
            ),
        )
        proposer = Proposer(store, RandomPoints(seed=self.settings.seed), pruner, self.settings.max_steps)
        return Scheduler(store, proposer, pruner, self._compose, None)

    @property
    def _node(self) -> Node:
        return self._acting.node if self._acting else self.nodes[0]

    def _compose(self, overrides: Sequence[str]) -> dict[str, Any]:
        self._has_composed = True
        return {
            "settings": list(overrides),
            "trainer": {"max_steps": self.settings.max_steps},
            "tracking": {"group": None},
        }

    @contextmanager
    def acting(self, worker: SimulatedWorker, kind: str, *, may_die: bool = False) -> Iterator[Spent]:
        """Run the real code as a worker, and find out how long it would have taken there.

        Args:
            worker: The worker.
            kind: What it does; it may change the answer's `kind` before the end of the block.
            may_die: Whether it has the lock, and may die at one of its writes.
        """
        spent, journal = Spent(kind), self.journal
        who = (worker.node.machine, worker.pid)
        behind = journal.length - self._read_until.get(who, journal.length)
        dies = may_die and self.draws.random() < self.settings.dies_deciding
        journal.begin(self.draws.randrange(8) if dies else NEVER)
        self._acting, self._has_composed = worker, False
        # The processor's time is measured now and then: the question itself takes time.
        self._num_calls += 1
        measures = self._num_calls % _MEASURED_EVERY == 0
        if self._progress is not None and self._num_calls % 20_000 == 0:
            number = len(self.checkpoints)
            print(f"{self.events.now:.0f} s, {number} trials, {self._num_calls} calls", file=self._progress, flush=True)
        began = time.process_time() if measures else 0.0
        try:
            yield spent
        except WorkerDied:
            self.ledger.counts["workers died with the lock"] += 1
            journal.begin()
            worker.die()
            self.after_about(self.settings.restart_s, worker.start)
        finally:
            self._acting = None
        if measures:
            entry = self._cpu[spent.kind][len(self.checkpoints) // _BIN * _BIN]
            entry[0], entry[1] = entry[0] + 1, entry[1] + time.process_time() - began
        self.replayed += behind
        self._read_until[who] = journal.length
        if may_die:
            spent.locked_s = journal.locked_s + self.settings.decision_s + behind * self.settings.replay_s
        compose_s = self.settings.compose_s if self._has_composed else 0.0
        spent.after_s = journal.spent_s - journal.locked_s - journal.before_lock_s + compose_s

    def has_read(self, worker: SimulatedWorker) -> None:
        """Note that a worker reads what others wrote: when it opens the storage, and before it waits for the lock."""
        who = (worker.node.machine, worker.pid)
        self.replayed += self.journal.length - self._read_until.get(who, 0)
        self._read_until[who] = self.journal.length

    def hold_folder(self, process: Process) -> None:
        """Lock a trial's folder, really, while a process whose worker died saves its checkpoint."""
        lock = FileLock(process.job.folder.lock)
        lock.acquire()

        def release_at_end() -> None:
            if process.code is None:
                self.events.after(0.5, release_at_end)
            else:
                lock.release()

        release_at_end()

    def after_about(self, mean_s: float, action: Callable[[], None]) -> None:
        """Let something happen after a random time."""
        if mean_s < NEVER:
            self.events.after(self.draws.expovariate(1 / mean_s), action)

    def _again_and_again(self, mean_s: float, action: Callable[[], None]) -> None:
        def happen() -> None:
            if not self.is_done:
                action()
                self.after_about(mean_s, happen)

        self.after_about(mean_s, happen)

    def _let_fail(self) -> None:
        settings = self.settings
        for node in self.nodes:
            self._again_and_again(settings.node_lives_s, node.die)
            self._again_and_again(settings.preempted_every_s, node.preempt)
            self._again_and_again(settings.cut_off_every_s, partial(self._cut_off, node))
            for worker in node.workers:
                self._again_and_again(settings.worker_lives_s, partial(self._let_die, worker))
                self._again_and_again(settings.trial_lives_s, partial(self._kill_trial, worker))
        self._again_and_again(settings.outage_every_s, self._let_storage_hang)

    def _cut_off(self, node: Node) -> None:
        self.ledger.counts["nodes cut off"] += 1
        node.cut_off(self.draws.uniform(1.0, self.settings.cut_off_s))

    def _let_die(self, worker: SimulatedWorker) -> None:
        if worker.pid:
            self.ledger.counts["workers died"] += 1
            worker.die()
            self.after_about(self.settings.restart_s, worker.start)

    def _kill_trial(self, worker: SimulatedWorker) -> None:
        if worker.process is not None:
            self.ledger.counts["trials killed"] += worker.process.code is None
            worker.process.end(-9)

    def _let_storage_hang(self) -> None:
        self.ledger.counts["outages"] += 1
        seconds = self.draws.uniform(20.0, 150.0)
        for node in self.nodes:
            node.cut_off(seconds)

    def run(self) -> dict[str, Any]:
        """Run the study to its end, and report it."""
        began = time.process_time()
        for node in self.nodes:
            for worker in node.workers:
                self.events.after(self.draws.uniform(0.0, 60.0), worker.start)
        self._let_fail()
        self.events.run(
            lambda: self.is_done and not any(worker.is_busy for node in self.nodes for worker in node.workers)
        )
        self.phases.change("down", "down")
        return self._report(time.process_time() - began)

    def _report(self, cpu_s: float) -> dict[str, Any]:
        trials = self.scheduler.trials("")
        num_trials, phases = self.settings.trials, self.phases.seconds
        up_s = sum(seconds for phase, seconds in phases.items() if phase not in ("down", "stopped"))
        counts = self.journal.counts
        return {
            "settings": asdict(self.settings),
            **self.ledger.facts(trials, num_trials),
            "hours": self.events.now / 3600,
            "phases": {phase: seconds / up_s for phase, seconds in phases.items() if phase not in ("down", "stopped")},
            "worker hours": {phase: seconds / 3600 for phase, seconds in phases.items()},
            "idle share": 1 - phases["training"] / up_s,
            "lock": {
                "share": self.lock.held_s / self.events.now,
                "mean_s": self.lock.held_s / max(self.lock.num_held, 1),
                "longest queue": self.lock.longest_queue,
            },
            "per trial": {name: counts[name] / num_trials for name in ("appends", "reads", "locks")},
            "journal": {"entries": self.journal.length, "MB": self.journal.bytes / 1e6, "replayed": self.replayed},
            "cpu_ms": {
                kind: {
                    str(size): [number, 1000 * seconds / number] for size, (number, seconds) in sorted(of_kind.items())
                }
                for kind, of_kind in self._cpu.items()
            },
            "cpu_s": cpu_s,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
