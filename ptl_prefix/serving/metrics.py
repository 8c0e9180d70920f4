"""What Prometheus reads: requests, tokens, times and memory of the server.

In: what the HTTP side observes, and the engine's status when Prometheus asks. Out: Prometheus' text. The label `model`
holds names of the server's own models only, and never more than a fixed number of them.
"""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from ptl_prefix.serving.request import EngineStatus

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
MAX_MODELS = 200
"""Most values of the label `model`; the models after that share one."""
OTHER_MODELS = "other"

_TTFT_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_INTER_TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Metrics:
    """The metrics of one server.

    Args:
        status: Called for the engine's status at each reading.
        num_tasks: Called for the number of bundles at each reading.
    """

    def __init__(self, status: Callable[[], EngineStatus], num_tasks: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        self._labels: set[str] = set()
        self._requests = self._counter("requests", "Texts that ended, by how they ended.", ["model", "finish_reason"])
        self._prompt = self._counter("prompt_tokens", "Tokens of prompts, without prefix rows.", ["model"])
        self._generated = self._counter("generated_tokens", "Generated tokens.", ["model"])
        self._rejections = self._counter("rejections", "Requests that were refused, by the error's code.", ["reason"])
        self._loads = self._counter("prefix_loads", "Prefixes that were read into the store.", [])
        self._evictions = self._counter("prefix_evictions", "Prefixes that left the store.", [])
        self._ttft = self._histogram("time_to_first_token_seconds", "Seconds from a request to its text.", _TTFT_S)
        self._inter_token = self._histogram("inter_token_seconds", "Seconds from token to token.", _INTER_TOKEN_S)
        for name, about, value in _gauges(status, num_tasks):
            Gauge(f"ptl_prefix_{name}", about, registry=self._registry).set_function(value)

    def first_token(self, model: str, seconds: float) -> None:
        """A request's first text came after so many seconds."""
        self._ttft.labels(self._label(model)).observe(seconds)

    def next_tokens(self, model: str, seconds: float, num: int) -> None:
        """So many tokens came, so many seconds after those before."""
        for _ in range(num):
            self._inter_token.labels(self._label(model)).observe(seconds / num)

    def finished(self, model: str, reason: str, *, num_prompt_tokens: int, num_new_tokens: int) -> None:
        """A text ended."""
        label = self._label(model)
        self._requests.labels(label, reason).inc()
        self._prompt.labels(label).inc(num_prompt_tokens)
        self._generated.labels(label).inc(num_new_tokens)

    def rejected(self, reason: str) -> None:
        """A request was refused; the reasons are the codes of our own errors."""
        self._rejections.labels(reason).inc()

    def store_changed(self, *, num_loaded: int, num_gone: int) -> None:
        """So many versions of bundles came into the store, and left it."""
        self._loads.inc(num_loaded)
        self._evictions.inc(num_gone)

    def text(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def _label(self, model: str) -> str:
        if model not in self._labels and len(self._labels) >= MAX_MODELS:
            return OTHER_MODELS
        self._labels.add(model)
        return model

    def _counter(self, name: str, about: str, labels: Iterable[str]) -> Counter:
        return Counter(f"ptl_prefix_{name}", about, labels, registry=self._registry)

    def _histogram(self, name: str, about: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"ptl_prefix_{name}", about, ["model"], buckets=buckets, registry=self._registry)


def _gauges(
    status: Callable[[], EngineStatus], num_tasks: Callable[[], int]
) -> tuple[tuple[str, str, Callable[[], float]], ...]:
    return (
        ("requests_running", "Requests in the batch.", lambda: status().num_running),
        ("requests_waiting", "Requests that wait for a row of the batch.", lambda: status().num_waiting),
        ("batch_rows", "Largest number of requests in the batch.", lambda: status().num_rows),
        ("text_bytes", "Memory of the text caches.", lambda: status().text_bytes),
        ("prefix_bytes", "Memory of the prefixes.", lambda: status().prefix_bytes),
        ("engine_heartbeat_age_seconds", "Seconds since the engine's loop came round.", lambda: status().heartbeat_age_s),
        ("tasks", "Bundles that the server offers.", num_tasks),
    )
