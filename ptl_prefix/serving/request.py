"""What the HTTP side and the engine exchange: requests one way, events the other.

In: nothing. Out: dataclasses of plain values, which cross from the server's event loop to the engine's thread and back.
Names, texts and files stay on the HTTP side; the engine sees token ids and versions of bundles.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from ptl_prefix.serving.label_trie import LabelTrie

FinishReason = Literal["stop", "length", "cancelled", "deadline", "error"]
"""Why a request ended: a stop id or stop text, `max_new_tokens`, its client, its deadline, or a failure."""

INTERNAL_ERROR = "engine_error"
"""The code of a failure whose message stays in the server's log."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the tokens of one request are chosen.

    Args:
        max_new_tokens: Largest number of generated tokens, the stop token included.
        temperature: Softmax temperature; 0 takes the most likely token.
        top_p: Probability mass of nucleus sampling; 1 samples from all tokens.
        seed: Seed of this request alone, so that its tokens do not depend on the requests beside it.
        num_logprobs: Number of likely tokens whose log-probability is reported at each step, besides the chosen one;
            `None` reports none.
        stop: Texts that end the generated text; they are not part of it.
    """

    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int
    num_logprobs: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """One text to generate.

    Args:
        request_id: Identifies the request among all that the engine holds.
        version: Version of the bundle, as `ServedBundle.version`; `None` is the bare base. A reload of the bundle's
            name does not change it.
        prompt_ids: Token ids of the whole prompt.
        stop_ids: Ids that end the text.
        sampling: How tokens are chosen.
        is_stripped: Whether whitespace around the generated text is left out, as in evaluation.
        client: Whom the request counts for when the engine shares its time fairly.
        deadline_s: `time.monotonic()` at which the request is given up; `None` for no limit.
        labels: Labels of which the text must be one; `None` for any text.
    """

    request_id: str
    version: str | None
    prompt_ids: tuple[int, ...]
    stop_ids: tuple[int, ...]
    sampling: Sampling
    is_stripped: bool = False
    client: str = ""
    deadline_s: float | None = None
    labels: LabelTrie | None = None


@dataclass(frozen=True)
class TokenLogprobs:
    """The log-probabilities of one generated token and of the likeliest ones at its step, in nats.

    Args:
        token_id: The generated token.
        logprob: Its log-probability.
        top: Ids and log-probabilities of the likeliest tokens, the likeliest first.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class TextEvent:
    """New text of a request.

    Args:
        request_id: The request.
        text: Text that is complete since the last event; it may be empty, as a character can take several tokens.
        token_ids: Ids that were generated since the last event.
        logprobs: One entry per id, if the request asked for them.
    """

    request_id: str
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True)
class FinishEvent:
    """The end of a request; its last event.

    Args:
        request_id: The request.
        reason: Why it ended.
        num_new_tokens: Number of generated tokens, the stop token included.
        message: What failed, as a sentence; empty unless the reason is `error`.
        status: HTTP status of the failure.
        code: Word of the failure for programs; of an `INTERNAL_ERROR`, clients do not see the message.
    """

    request_id: str
    reason: FinishReason
    num_new_tokens: int
    message: str = ""
    status: int = 500
    code: str = INTERNAL_ERROR


Event = TextEvent | FinishEvent
OnEvent = Callable[[Event], None]
"""Called on the engine's thread: it must not block, and hands the event on, as `loop.call_soon_threadsafe` does."""


@dataclass(frozen=True, kw_only=True)
class EngineStatus:
    """The engine at one moment.

    Args:
        num_running: Requests in the batch.
        num_waiting: Requests that wait for a row.
        num_rows: Largest number of requests in the batch.
        text_bytes: Memory that the text caches hold.
        prefix_bytes: Memory that the prefixes hold.
        num_new_tokens: Tokens generated since the start.
        heartbeat_age_s: Seconds since the engine's loop last came round; a large number means that it hangs.
    """

    num_running: int
    num_waiting: int
    num_rows: int
    text_bytes: int
    prefix_bytes: int
    num_new_tokens: int
    heartbeat_age_s: float


class EngineLike(Protocol):
    """What the HTTP side needs of an engine. Each function may be called from any thread."""

    def submit(self, request: GenerationRequest, on_event: OnEvent) -> None:
        """Queue a request; `on_event` gets its events in order, a `FinishEvent` last.

        The bundle is read from disk here if it is not in memory, so call it in a worker thread.

        Raises:
            BundleError: When the bundle cannot be read, or is not in the store.
            RequestError: When the request is larger than the engine's bounds.
        """

    def cancel(self, request_id: str) -> None:
        """Give up a request, if it still runs: its row is free after the current step."""

    def attention_on_prefix(self, version: str, prompt_ids: Sequence[int]) -> dict[str, list[float]]:
        """The fraction of a prompt's attention that is on the prefix of a bundle, by site and layer.

        Call it in a worker thread: it waits for the engine.

        Raises:
            RequestError: When the bundle has no prefix, or this engine cannot measure it.
        """

    def status(self) -> EngineStatus:
        """The engine now."""

    @property
    def is_alive(self) -> bool:
        """Whether the engine's thread runs."""
