"""Simulated time: events in order, the study's lock in the order of its requests, and what the workers do meanwhile.

In: what shall happen when. Out: the events, one after another, at their times.
"""

import heapq
import itertools
from collections import Counter, deque
from collections.abc import Callable

Action = Callable[[], None]


class Events:
    """The events of a simulation."""

    def __init__(self) -> None:
        self.now = 0.0
        self._queue: list[tuple[float, int, Action]] = []
        self._numbers = itertools.count()

    def at(self, time: float, action: Action) -> None:
        """Let something happen at a time, and not before now."""
        heapq.heappush(self._queue, (max(time, self.now), next(self._numbers), action))

    def after(self, seconds: float, action: Action) -> None:
        """Let something happen after some seconds."""
        self.at(self.now + seconds, action)

    def run(self, is_over: Callable[[], bool]) -> None:
        """Let everything happen until it is over, or nothing is left."""
        while self._queue and not is_over():
            self.now, _, action = heapq.heappop(self._queue)
            action()


class StudyLock:
    """The lock of the study, which one worker at a time has.

    Args:
        events: The simulated time.
    """

    def __init__(self, events: Events) -> None:
        self._events = events
        self._waiting: deque[tuple[Callable[[], bool], Callable[[], float]]] = deque()
        self._is_held = False
        self.held_s = 0.0
        self.num_held = 0
        self.longest_queue = 0

    def request(self, still_waits: Callable[[], bool], act: Callable[[], float]) -> None:
        """Wait for the lock.

        Args:
            still_waits: Whether the worker is still there when its turn comes.
            act: What it does then; returns the seconds for which it has the lock.
        """
        self._waiting.append((still_waits, act))
        self.longest_queue = max(self.longest_queue, len(self._waiting))
        if not self._is_held:
            self._grant()

    def _grant(self) -> None:
        self._is_held = False
        while self._waiting:
            still_waits, act = self._waiting.popleft()
            if still_waits():
                self._is_held = True
                seconds = act()
                self.held_s += seconds
                self.num_held += 1
                self._events.after(seconds, self._grant)
                return


class Phases:
    """The seconds that all workers together spent in each phase.

    Args:
        events: The simulated time.
        num_workers: Workers, all of which begin as `down`.
    """

    def __init__(self, events: Events, num_workers: int) -> None:
        self._events, self._since = events, 0.0
        self._workers = Counter({"down": num_workers})
        self.seconds: Counter[str] = Counter()

    def change(self, before: str, after: str) -> None:
        """Note that a worker's phase changes now."""
        elapsed = self._events.now - self._since
        if elapsed > 0:
            for phase, workers in self._workers.items():
                self.seconds[phase] += workers * elapsed  # type: ignore[assignment]
            self._since = self._events.now
        self._workers[before] -= 1
        self._workers[after] += 1
