"""Which requests run next: who gets a row, whose prompt is read, who steps, who has to wait.

In: requests as they arrive and end, and the time. Out: one `Decision` for each round of the engine. The scheduler knows
no tensor, no thread and no clock, so it is tested on times that a test makes up.

A round is at most one forward pass that reads prompts and one that steps. Reading is bounded by `chunk_tokens`, so a
long prompt delays the running rows by one chunk per token and no more. A chunk that delays nobody may be longer.

Clients share the engine fairly, by virtual token counters (Sheng et al., 2024, "Fairness in Serving Large Language
Models"): a row that becomes free goes to the waiting client that was served the fewest tokens. A client that was away
gets no credit for that time. If one client holds more rows than its share while another has waited for `patience_s`,
the newest of its rows is preempted: it waits again, and continues later with the tokens it has.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from ptl_prefix.serving.job import Decision, Job

BytesFor = Callable[[int, int, int], int]
"""Memory of a batch, from its numbers of rows, prefix columns and text columns."""

_UNDISTURBED = 4
"""Chunks that are read at once when no row waits for its next step."""


@dataclass(frozen=True, kw_only=True)
class SchedulerSettings:
    """Bounds of the batch.

    Args:
        max_rows: Largest number of requests in the batch.
        max_text_bytes: Largest memory of the batch's keys and values.
        max_prefix_bytes: Largest memory of the prefixes that the batch uses, each version counted once.
        chunk_tokens: Largest number of prompt tokens that one round reads, padding included; four times as many if no
            row of the group can step.
        patience_s: Seconds that a client without a row waits before another one's row is preempted.
        quantum: Rounds that one group of rows runs before another group gets its turn.
    """

    max_rows: int
    max_text_bytes: int
    max_prefix_bytes: int
    chunk_tokens: int
    patience_s: float = 2.0
    quantum: int = 16


@dataclass
class Scheduler:
    """The waiting and the running requests.

    Args:
        settings: Bounds of the batch.
        bytes_for: Memory of a batch of the backbone.
    """

    settings: SchedulerSettings
    bytes_for: BytesFor
    _waiting: list[Job] = field(default_factory=list)
    _running: list[Job] = field(default_factory=list)
    _served: dict[str, float] = field(default_factory=dict)
    _group: str | None = None
    _rounds: int = 0

    @property
    def num_waiting(self) -> int:
        """Number of requests that wait for a row."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Number of requests that have a row."""
        return len(self._running)

    def problem_of(self, job: Job) -> str | None:
        """Why a request would not fit an empty batch, as a sentence; `None` if it would."""
        if job.prefix_bytes > self.settings.max_prefix_bytes:
            return (
                f"A prefix must fit the server's memory for prefixes, {self.settings.max_prefix_bytes} bytes, but one "
                f"of {job.prefix_bytes} bytes does not; raise `max_prefix_bytes`."
            )
        if not self._fit([job]):
            return (
                f"A request must fit the server's memory for texts, {self.settings.max_text_bytes} bytes, but one of "
                f"{job.num_columns} tokens with a prefix of {job.num_prefix} does not; shorten it, or ask for fewer "
                "tokens."
            )
        return None

    def add(self, job: Job) -> None:
        """Queue a request."""
        active = {other.client for other in (*self._waiting, *self._running)}
        if job.client not in active:
            # Otherwise a client that comes back after an hour would be owed an hour.
            least = min((self._served[client] for client in active), default=0.0)
            self._served[job.client] = max(self._served.get(job.client, 0.0), least)
        self._waiting.append(job)

    def remove(self, request_id: str) -> bool:
        """Forget a request that has ended; returns whether it had a row."""
        for jobs in (self._running, self._waiting):
            for job in jobs:
                if job.request_id == request_id:
                    jobs.remove(job)
                    self._forget_idle_clients()
                    return jobs is self._running
        return False

    def decide(self, now_s: float) -> Decision:
        """The next round. The decision is taken as carried out: the next one builds on it."""
        given_up = self._give_up(now_s)
        preempted = self._preempt(now_s)
        admitted = self._admit()
        self._choose_group()
        read = self._read()
        step = [job for job in self._running if job.group == self._group and job.can_step]
        for job, count in (*read, *((job, 1) for job in step)):
            self._served[job.client] += job.note_read(count)
        return Decision(
            given_up=tuple((job.request_id, "deadline") for job in given_up),
            preempted=tuple(job.request_id for job in preempted),
            admitted=tuple(job.request_id for job in admitted),
            group=self._group,
            read=tuple((job.request_id, count) for job, count in read),
            step=tuple(job.request_id for job in step),
        )

    def _give_up(self, now_s: float) -> list[Job]:
        late = [
            job for job in (*self._waiting, *self._running) if job.deadline_s is not None and job.deadline_s <= now_s
        ]
        for job in late:
            self.remove(job.request_id)
        return late

    def _preempt(self, now_s: float) -> list[Job]:
        """At most one row a round, for a client that has none, from the client with the most."""
        if len(self._running) < self.settings.max_rows:
            return []
        with_rows = {job.client for job in self._running}
        patient = [
            job
            for job in self._waiting
            if job.client not in with_rows and now_s - job.arrived_s >= self.settings.patience_s
        ]
        if not patient:
            return []
        num_clients = len(with_rows | {job.client for job in patient})
        holder = max(sorted(with_rows), key=self._num_rows_of, default=None)
        if holder is None or self._num_rows_of(holder) <= max(1, self.settings.max_rows // num_clients):
            return []
        newest = [job for job in self._running if job.client == holder][-1]
        self._running.remove(newest)
        newest.note_preempted()
        self._waiting.append(newest)
        return [newest]

    def _num_rows_of(self, client: str) -> int:
        return sum(job.client == client for job in self._running)

    def _admit(self) -> list[Job]:
        admitted: list[Job] = []
        while len(self._running) < self.settings.max_rows and self._waiting:
            # Each client's requests in their order; the least served client first.
            first: dict[str, Job] = {}
            for job in self._waiting:
                first.setdefault(job.client, job)
            job = min(first.values(), key=lambda one: (self._served[one.client], one.arrived_s))
            if not self._fit([*self._running, job]):
                break  # not the next client's: a large request would wait for ever behind small ones
            self._waiting.remove(job)
            self._running.append(job)
            self._served[job.client] += job.num_unread - 1
            admitted.append(job)
        return admitted

    def _fit(self, rows: list[Job]) -> bool:
        prefixes = {job.version: job.prefix_bytes for job in rows}
        text_bytes = self.bytes_for(
            len(rows), max(job.num_prefix for job in rows), max(job.num_columns for job in rows)
        )
        settings = self.settings
        return text_bytes <= settings.max_text_bytes and sum(prefixes.values()) <= settings.max_prefix_bytes

    def _choose_group(self) -> None:
        groups = list(dict.fromkeys(job.group for job in self._running))
        self._rounds += 1
        if not groups or (self._group in groups and (len(groups) == 1 or self._rounds % self.settings.quantum)):
            return
        place = groups.index(self._group) if self._group in groups else -1
        self._group = groups[(place + 1) % len(groups)]

    def _read(self) -> list[tuple[Job, int]]:
        """The oldest prompts of the group, as many together as one chunk holds."""
        rows = [job for job in self._running if job.group == self._group]
        unread = [job for job in rows if not job.can_step]
        limit = self.settings.chunk_tokens * (_UNDISTURBED if len(unread) == len(rows) else 1)
        chosen: list[tuple[Job, int]] = []
        widest = 0
        for job in unread:
            count = min(job.num_unread, limit)
            if chosen and (len(chosen) + 1) * max(widest, count) > limit:
                break
            widest = max(widest, count)
            chosen.append((job, count))
        return chosen

    def _forget_idle_clients(self) -> None:
        """Counters of clients that are away would grow without bound; the largest is kept as the floor for all."""
        if len(self._served) > 10_000:
            active = {job.client for job in (*self._waiting, *self._running)}
            self._served = {client: served for client, served in self._served.items() if client in active}
