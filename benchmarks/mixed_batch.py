"""Serves one request of each bundle of a folder in one batch, with the server's own engine.

In: a backbone, a folder of bundles and a source. Out: how many requests were in the batch together, and what they held.
"""

import queue
from dataclasses import dataclass
from pathlib import Path

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.serving.engine import Engine
from ptl_prefix.serving.prefix_store import PrefixStore
from ptl_prefix.serving.request import Event, FinishEvent, GenerationRequest, Sampling
from ptl_prefix.serving.scheduler import SchedulerSettings
from ptl_prefix.serving.served_bundle import ServedBundle

_LARGE = 2**40
"""A bound that no request reaches."""


@dataclass(frozen=True)
class ServedBatch:
    """What was served.

    Args:
        num_in_batch: Largest number of requests that were in the batch together.
        num_columns: Columns of the longest request: its prompt and the generated tokens.
        prefix_bytes: Memory of the prefixes.
    """

    num_in_batch: int
    num_columns: int
    prefix_bytes: int


def serve_together(backbone: Backbone, folder: Path, source: str, *, new_tokens: int) -> ServedBatch:
    """Answer one request of each bundle, all submitted at once.

    Raises:
        RuntimeError: A bundle is not served, or the engine ended.
    """
    store = PrefixStore(folder, backbone, max_bytes=_LARGE)
    store.rescan()
    if store.problems:
        raise RuntimeError(f"Every bundle must be served, but some are not: {store.problems}.")
    requests = [_request(bundle, source, new_tokens) for bundle in store.bundles()]
    settings = SchedulerSettings(
        max_rows=len(requests), max_text_bytes=_LARGE, max_prefix_bytes=_LARGE, chunk_tokens=512
    )
    engine = Engine(backbone, store, settings)
    events: queue.Queue[Event] = queue.Queue()
    running: list[int] = []

    def on_event(event: Event) -> None:
        running.append(engine.status().num_running)
        events.put(event)

    engine.start()
    try:
        for request in requests:
            engine.submit(request, on_event)
        num_finished = 0
        while num_finished < len(requests):
            num_finished += isinstance(_next_event(events, engine), FinishEvent)
        prefix_bytes = store.status().prefix_bytes
    finally:
        engine.stop()
    num_columns = max(len(request.prompt_ids) for request in requests) + new_tokens
    return ServedBatch(max(running), num_columns, prefix_bytes)


def _request(bundle: ServedBundle, source: str, new_tokens: int) -> GenerationRequest:
    """A greedy request that is not ended by a stop token, as random weights may write one at once."""
    return GenerationRequest(
        request_id=bundle.name,
        version=bundle.version,
        prompt_ids=tuple(bundle.prompter.encode_source(source)),
        stop_ids=(),
        sampling=Sampling(max_new_tokens=new_tokens, temperature=0.0, top_p=1.0, seed=0),
    )


def _next_event(events: "queue.Queue[Event]", engine: Engine) -> Event:
    """The next event; a dead engine sends none."""
    while True:
        try:
            return events.get(timeout=1.0)
        except queue.Empty:
            if not engine.is_alive:
                raise RuntimeError("The engine must run until all requests are answered, but it ended.") from None
