"""A simulated machine: it dies, is preempted, loses the storage, and comes back as another machine.

In: what happens to it. Out: the same for its workers, and the identity of the machine that `Liveness` is told.
"""

from typing import TYPE_CHECKING

from benchmarks.sweep_scale.worker import SimulatedWorker

if TYPE_CHECKING:
    from benchmarks.sweep_scale.cluster import Cluster


class Node:
    """A machine with its workers.

    Args:
        cluster: Everything else.
        number: Number of the node.
        num_workers: Its workers.
    """

    def __init__(self, cluster: "Cluster", number: int, num_workers: int) -> None:
        self._cluster, self._number = cluster, number
        self._boots, self.is_up = 0, True
        self.pids: dict[int, float] = {}
        self.cut_off_until = 0.0
        draws = cluster.draws
        self.step_s = cluster.settings.step_s * draws.uniform(0.7, 1.4)
        self.clock_error_s = draws.uniform(-1, 1) * cluster.settings.clock_error_s
        self.workers = [SimulatedWorker(cluster, self) for _ in range(num_workers)]

    @property
    def machine(self) -> str:
        """Identity of the machine, which differs after each boot."""
        return f"{self._number}-{self._boots}"

    @property
    def is_cut_off(self) -> bool:
        """Whether the node does not reach the storage."""
        return self._cluster.events.now < self.cut_off_until

    def new_pid(self) -> int:
        """The id of a new process."""
        self._cluster.num_processes += 1
        self.pids[self._cluster.num_processes] = self._cluster.events.now
        return self._cluster.num_processes

    def die(self) -> None:
        """Lose the machine and everything on it; it starts again later."""
        if self.is_up:
            for worker in self.workers:
                worker.die(with_node=True)
            self.is_up = False
            self._cluster.ledger.counts["nodes lost"] += 1
            self._cluster.after_about(self._cluster.settings.restart_s, self._start)

    def preempt(self) -> None:
        """Signal the workers, and take the machine away after the notice."""
        if self.is_up:
            boots = self._boots
            for worker in self.workers:
                worker.stop_now()
            self._cluster.ledger.counts["preemptions"] += 1
            notice_s = self._cluster.settings.notice_s
            self._cluster.events.after(notice_s, lambda: self.die() if self._boots == boots else None)

    def cut_off(self, seconds: float) -> None:
        """Lose the storage for some seconds."""
        self.cut_off_until = max(self.cut_off_until, self._cluster.events.now + seconds)

    def _start(self) -> None:
        self._boots, self.is_up = self._boots + 1, True
        for worker in self.workers:
            worker.start()
