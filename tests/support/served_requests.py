"""Bundles, an engine and requests for tests of the server, and what a request must get when it is alone."""

import itertools
import queue
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from support.method_nodes import new_method
from support.no_task import export_untasked
from support.toy_batches import train
from torch import Tensor

from ptl_prefix.artifacts.bundle import read_bundle
from ptl_prefix.artifacts.routing_facts import RoutingFacts
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import prompt_batch
from ptl_prefix.methods.restore import restore
from ptl_prefix.serving.engine import Engine
from ptl_prefix.serving.prefix_store import PrefixStore
from ptl_prefix.serving.request import Event, FinishEvent, GenerationRequest, Sampling, TextEvent
from ptl_prefix.serving.scheduler import SchedulerSettings
from ptl_prefix.serving.served_bundle import ServedBundle

_IDS = itertools.count()


def make_bundle(
    backbone: Backbone,
    folder: Path,
    method: str = "prefix_tuning",
    *,
    seed: int = 0,
    routing: RoutingFacts | None = None,
    **changes: Any,
) -> Path:
    """A bundle of a method after a few steps of training; the backbone is given back."""
    torch.manual_seed(seed)
    if method == "prefix_tuning":
        changes = {"prefix_length": 2 + seed, "reparam": "none"} | changes
    attached = new_method(method, **changes).attach(backbone)
    train(backbone, attached, steps=3)
    export_untasked(attached.eval(), backbone, folder, routing=routing)
    attached.detach()
    return folder


@contextmanager
def running_engine(backbone: Backbone, folder: Path, **changes: Any) -> Iterator[Engine]:
    """An engine over the bundles of a folder."""
    settings = {"max_rows": 8, "max_text_bytes": 2**26, "max_prefix_bytes": 2**26, "chunk_tokens": 16} | changes
    store = PrefixStore(folder, backbone, max_bytes=settings["max_prefix_bytes"])
    store.rescan()
    engine = Engine(backbone, store, SchedulerSettings(**settings))
    engine.start()
    try:
        yield engine
    finally:
        engine.stop(timeout_s=20)
    assert not engine.is_alive
    assert engine.failure is None, engine.failure


@dataclass
class Answer:
    """What a request got."""

    request: GenerationRequest
    events: "queue.Queue[Event]" = field(default_factory=queue.Queue)
    text: str = ""
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: FinishEvent | None = None

    def wait(self, timeout_s: float = 60.0) -> "Answer":
        """Take in events until the last one."""
        end = time.monotonic() + timeout_s
        while self.finish is None:
            event = self.events.get(timeout=max(0.01, end - time.monotonic()))
            if isinstance(event, TextEvent):
                self.text += event.text
                self.ids += event.token_ids
                self.logprobs += [one.logprob for one in event.logprobs]
            else:
                self.finish = event
        return self


def new_request(
    backbone: Backbone, bundle: ServedBundle | None, source: str, *, max_new_tokens: int = 8, **changes: Any
) -> GenerationRequest:
    """A greedy request for a source, with log-probabilities."""
    sampling: dict[str, Any] = {"temperature": 0.0, "top_p": 1.0, "seed": 0, "num_logprobs": 0}
    own = {name: changes.pop(name) for name in list(changes) if name in (*sampling, "stop")}
    prompter = _prompter(backbone, bundle)
    settings: dict[str, Any] = {
        "request_id": f"request-{next(_IDS)}",
        "version": None if bundle is None else bundle.version,
        "prompt_ids": tuple(prompter.encode_source(source)),
        "stop_ids": tuple(prompter.stop_ids),
        "sampling": Sampling(max_new_tokens=max_new_tokens, **(sampling | own)),
    }
    return GenerationRequest(**(settings | changes))


def _prompter(backbone: Backbone, bundle: ServedBundle | None) -> Any:
    from ptl_prefix.artifacts.prompt_format import PromptFormat

    return backbone.prompter(PromptFormat()) if bundle is None else bundle.prompter


def ask(engine: Engine, request: GenerationRequest) -> Answer:
    """Submit a request."""
    answer = Answer(request)
    engine.submit(request, answer.events.put)
    return answer


@torch.no_grad()
def logprobs_alone(
    backbone: Backbone, folder: Path | None, request: GenerationRequest, ids: Sequence[int]
) -> list[float]:
    """The log-probabilities of a request's tokens, with its bundle alone on the backbone and one forward pass."""
    adaptation = None if folder is None else restore(backbone, read_bundle(folder))
    prompter = _prompter(backbone, None) if adaptation is None else adaptation._prompter
    inputs = prompt_batch([list(request.prompt_ids)], backbone.padding(prompter))
    if inputs.decoder_input_ids is None:
        text = torch.tensor([[*request.prompt_ids, *ids]])
        inputs = prompt_batch(text.tolist(), backbone.padding(prompter))
    else:
        text = torch.tensor([[*inputs.decoder_input_ids[0].tolist(), *ids]])
        inputs = inputs.replace(decoder_input_ids=text, decoder_attention_mask=torch.ones_like(text))
    first = text.shape[1] - len(ids) - 1
    try:
        conditioned = inputs if adaptation is None else adaptation.method.condition(inputs)
        logits: Tensor = backbone.logits(conditioned)[0, first:-1]
    finally:
        backbone.slots.clear()
        if adaptation is not None:
            adaptation.detach()
    found: list[float] = logits.float().log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0].tolist()
    return found
