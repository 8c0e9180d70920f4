"""The server's engine over prefixes in memory, for measurements.

In: a backbone with random weights, and prefixes. Out: a running `Engine`, and answers with the time of each token. No
file and no HTTP is part of a measurement.
"""

import itertools
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.prefix_states import LayerStates, PrefixStates
from ptl_prefix.serving.engine import Engine
from ptl_prefix.serving.prefix_loading import LoadedPrefix
from ptl_prefix.serving.request import Event, FinishEvent, GenerationRequest, Sampling
from ptl_prefix.serving.scheduler import SchedulerSettings
from ptl_prefix.serving.served_bundle import ServedBundle
from ptl_prefix.serving.version_store import StoreStatus

_IDS = itertools.count()


def random_prefix(backbone: Backbone, length: int, *, seed: int) -> LoadedPrefix:
    """A prefix of random keys and values in every layer."""
    generator = torch.Generator().manual_seed(seed)
    sites = {}
    for site, geometry in backbone.geometry.items():
        shape = (2, 1, geometry.num_kv_heads, length, geometry.head_dim)
        mask = torch.ones(1, length, dtype=torch.bool)
        drawn = [torch.randn(shape, generator=generator).to(backbone.dtype) for _ in range(geometry.num_layers)]
        sites[site] = tuple(LayerStates(key, value, mask) for key, value in drawn)
    return LoadedPrefix(PrefixStates(sites, torch.tensor([length])), prompt_rows=None, is_infix=False)


class MemoryStore:
    """The part of `PrefixStore` that an engine uses, with every prefix in memory."""

    def __init__(self, prefixes: Mapping[str, LoadedPrefix]) -> None:
        self._prefixes = prefixes

    def hold(self, version: str) -> ServedBundle:
        """The bundle of a version: what the engine reads of it."""
        prefix = self._prefixes[version]
        assert prefix.states is not None
        length = int(prefix.states.position_offset)
        unread: Any = None
        return ServedBundle("task", version, unread, unread, length, length, prefix.num_bytes)

    def release(self, version: str) -> None:
        """Nothing is counted."""

    def use(self, version: str) -> LoadedPrefix:
        """The prefix."""
        return self._prefixes[version]

    def stop_using(self, version: str) -> None:
        """Nothing is counted."""

    def status(self) -> StoreStatus:
        """All is loaded."""
        num_bytes = sum(prefix.num_bytes for prefix in self._prefixes.values())
        return StoreStatus(len(self._prefixes), len(self._prefixes), num_bytes, 0, 0)


@dataclass
class TimedAnswer:
    """When the tokens of a request came, in seconds of `time.perf_counter`."""

    asked_s: float
    token_times_s: list[float] = field(default_factory=list)
    is_finished: threading.Event = field(default_factory=threading.Event)

    def take(self, event: Event) -> None:
        """Note an event's time; called on the engine's thread."""
        if isinstance(event, FinishEvent):
            self.is_finished.set()
        else:
            self.token_times_s.append(time.perf_counter())

    @property
    def first_token_s(self) -> float:
        """Seconds from the request to its first token."""
        return self.token_times_s[0] - self.asked_s

    @property
    def gaps_s(self) -> list[float]:
        """Seconds between its tokens."""
        return [later - earlier for earlier, later in itertools.pairwise(self.token_times_s)]


def ask(engine: Engine, version: str | None, prompt: Sequence[int], num_new: int) -> TimedAnswer:
    """Submit a greedy request that generates exactly `num_new` tokens."""
    sampling = Sampling(max_new_tokens=num_new, temperature=0.0, top_p=1.0, seed=0)
    request = GenerationRequest(
        request_id=str(next(_IDS)), version=version, prompt_ids=tuple(prompt), stop_ids=(), sampling=sampling
    )
    answer = TimedAnswer(time.perf_counter())
    engine.submit(request, answer.take)
    return answer


@contextmanager
def running(backbone: Backbone, store: Any, *, max_rows: int) -> Iterator[Engine]:
    """An engine over a store, with enough memory for everything."""
    settings = SchedulerSettings(
        max_rows=max_rows, max_text_bytes=2**34, max_prefix_bytes=2**34, chunk_tokens=512, patience_s=float("inf")
    )
    engine = Engine(backbone, store, settings)
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()
    if engine.failure is not None:
        raise engine.failure
