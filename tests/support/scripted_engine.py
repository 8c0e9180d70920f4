"""An engine and a store that do as they are told: the HTTP side is tested against them.

In: bundles, and how fast and how an engine is to generate. Out: an `EngineLike`, whose thread writes the words of a
script, one token each; and a store of bundles in memory.
"""

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.artifacts.manifest import BackboneIdentity, Manifest
from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.errors import PtlPrefixError
from ptl_prefix.serving.models import Base
from ptl_prefix.serving.request import (
    EngineStatus,
    FinishEvent,
    FinishReason,
    GenerationRequest,
    OnEvent,
    TextEvent,
    TokenLogprobs,
)
from ptl_prefix.serving.served_bundle import ServedBundle
from ptl_prefix.serving.version_store import StoreStatus

WORDS = ("The", " Old", " Mill", " is", " a", " pub", " in", " Rome", ".")
"""What the engine writes."""
WINDOW = 512


class ScriptedEngine:
    """Writes `WORDS` for each request, then stops.

    Args:
        seconds_per_token: Time from one token to the next.
        words: Text of each token.
    """

    def __init__(self, *, seconds_per_token: float = 0.0, words: Iterable[str] = WORDS) -> None:
        self.seconds_per_token = seconds_per_token
        self.words = tuple(words)
        self.requests: list[GenerationRequest] = []
        self.cancelled: list[str] = []
        self.finished: list[tuple[str, FinishReason]] = []
        self.heartbeat_age_s = 0.0
        self.error: str | None = None
        self.is_dead = False
        self.is_paused = False
        self._lock = threading.Lock()
        self._running: set[str] = set()

    @property
    def is_alive(self) -> bool:
        return not self.is_dead

    def submit(self, request: GenerationRequest, on_event: OnEvent) -> None:
        with self._lock:
            self.requests.append(request)
            self._running.add(request.request_id)
        threading.Thread(target=self._write, args=(request, on_event), daemon=True).start()

    def cancel(self, request_id: str) -> None:
        with self._lock:
            if request_id in self._running:
                self._running.discard(request_id)
                self.cancelled.append(request_id)

    def attention_on_prefix(self, version: str, prompt_ids: Sequence[int]) -> dict[str, list[float]]:
        """Made-up fractions, one for each of two layers."""
        return {"decoder_self": [0.25, 0.75]}

    def status(self) -> EngineStatus:
        with self._lock:
            return EngineStatus(
                num_running=len(self._running),
                num_waiting=0,
                num_rows=8,
                text_bytes=1000,
                prefix_bytes=2000,
                num_new_tokens=0,
                heartbeat_age_s=self.heartbeat_age_s,
            )

    def _write(self, request: GenerationRequest, on_event: OnEvent) -> None:
        num_new_tokens = 0
        reason: FinishReason = "stop"
        for number, word in enumerate(self.words):
            while self.is_paused and request.request_id in self._running:
                time.sleep(0.005)
            time.sleep(self.seconds_per_token)
            if self.error is not None:
                reason = "error"
            elif request.request_id not in self._running:
                reason = "cancelled"
            elif request.deadline_s is not None and time.monotonic() > request.deadline_s:
                reason = "deadline"
            elif number >= request.sampling.max_new_tokens:
                reason = "length"
            else:
                num_new_tokens += 1
                on_event(TextEvent(request.request_id, word, (100 + number,), self._logprobs(request, number)))
                continue
            break
        with self._lock:
            self._running.discard(request.request_id)
            self.finished.append((request.request_id, reason))
        on_event(FinishEvent(request.request_id, reason, num_new_tokens, self.error or ""))

    def _logprobs(self, request: GenerationRequest, number: int) -> tuple[TokenLogprobs, ...]:
        num = request.sampling.num_logprobs
        if num is None:
            return ()
        others = tuple((100 + number + other, -0.25 - other) for other in range(num))
        return (TokenLogprobs(100 + number, -0.25, others),)


class UnknownNameError(PtlPrefixError):
    """No bundle has this name."""


class ListedStore:
    """A store of given bundles; `folder` has the bundles that `load` can offer."""

    def __init__(self, bundles: Iterable[ServedBundle]) -> None:
        self.folder = {bundle.name: bundle for bundle in bundles}
        self.served: dict[str, ServedBundle] = dict(self.folder)
        self.num_rescans = 0
        self.asked: list[str] = []

    def bundles(self) -> list[ServedBundle]:
        return list(self.served.values())

    def find(self, model: str) -> ServedBundle:
        self.asked.append(model)
        for bundle in self.served.values():
            if model in (bundle.name, bundle.model_id):
                return bundle
        raise UnknownNameError(f"no bundle is called {model}")

    def load(self, name: str) -> ServedBundle:
        if name not in self.folder:
            raise UnknownNameError(f"A name must be that of a bundle in the folder, but {name!r} is not.")
        self.served[name] = self.folder[name]
        return self.folder[name]

    def unload(self, name: str) -> ServedBundle:
        if name not in self.served:
            raise UnknownNameError(f"A name must be that of a bundle in the store, but {name!r} is not.")
        return self.served.pop(name)

    def rescan(self) -> bool:
        self.num_rescans += 1
        changed = self.served != self.folder
        self.served = dict(self.folder)
        return changed

    def status(self) -> StoreStatus:
        return StoreStatus(len(self.served), num_loaded=1, prefix_bytes=2560, num_loads=3, num_evictions=2)


GREEDY = Decoding(
    max_new_tokens=32,
    min_new_tokens=0,
    num_beams=1,
    length_penalty=1.0,
    no_repeat_ngram_size=0,
    do_sample=False,
    temperature=1.0,
    top_p=1.0,
    seed=0,
)


def embedded_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of the embedded backbone."""
    import ptl_prefix

    folder = Path(ptl_prefix.__file__).parent / "backbones/embedded/tiny_gpt2"
    return PreTrainedTokenizerFast.from_pretrained(folder)  # type: ignore[no-any-return]


def made_up_base(tokenizer: PreTrainedTokenizerFast, **changes: Any) -> Base:
    """A base whose name is `tiny`."""
    facts: dict[str, Any] = {"dtype": "float32"}
    prompter = Prompter(tokenizer, PromptFormat(between="", truncation="none"))
    base = {
        "name": "tiny",
        "prompter": prompter,
        "decoding": GREEDY,
        "max_positions": WINDOW,
        "token_text": lambda token_id: str(tokenizer.decode([token_id])),
        "facts": facts,
    }
    return Base(**base | changes)


def made_up_bundle(
    name: str,
    tokenizer: PreTrainedTokenizerFast,
    *,
    decoding: Decoding = GREEDY,
    prompt: Mapping[str, Any] | None = None,
) -> ServedBundle:
    """A bundle of five rows, whose version depends on its name."""
    prompt_format = PromptFormat(**{"between": " {bos}", **(prompt or {})})
    prompter = Prompter(tokenizer, prompt_format)
    manifest = Manifest(
        method="prefix_tuning",
        settings={"prefix_length": 5},
        task=name,
        task_version="1",
        prompt=prompt_format,
        stop_ids=prompter.stop_ids,
        decoding=decoding,
        label_set=None,
        metrics={"test/bleu": 61.5},
        geometry={"decoder_self": {"num_layers": 2, "num_kv_heads": 4, "head_dim": 8}},
        position_law="shifted",
        dtype="float32",
        backbone=BackboneIdentity(
            name="tiny", path="tiny", family="gpt2", weights_fingerprint="a", tokenizer_fingerprint="b"
        ),
        tensors={},
        tensors_sha256="c",
        created="2026-11-29T12:00:00+00:00",
        package_version="0.1.0",
    )
    version = f"{abs(hash(name)) % 16**16:016x}" if name != "towns" else "00000000000000aa"
    return ServedBundle(
        name=name,
        version=version,
        manifest=manifest,
        prompter=prompter,
        num_positions=5,
        num_rows=5,
        num_bytes=2560,
    )
