"""What Prometheus reads: requests, tokens, times and memory of the server.

In: what the HTTP side observes, and the engine's status when Prometheus asks. Out: Prometheus' text. The label `model`
holds names of the server's own models only, and never more than a fixed number of them.
"""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from ptl_prefix.serving.request import EngineStatus
from ptl_prefix.serving.version_store import StoreStatus

# Else each counter has a second series, with the time of its first use.
disable_created_metrics()  # type: ignore[no-untyped-call]
CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
MAX_MODELS = 200
"""Most values of the label `model`; the models after that share one."""
OTHER_MODELS = "other"

_TTFT_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_INTER_TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Metrics:
    """The metrics of one server.

    Args:
        engine: Called for the engine's status at each reading.
        store: Called for the store's status at each reading.
    """

    def __init__(self, engine: Callable[[], EngineStatus], store: Callable[[], StoreStatus]) -> None:
        self._registry = CollectorRegistry()
        self._labels: set[str] = set()
        self._requests = self._counter("requests", "Texts that ended, by how they ended.", ["model", "finish_reason"])
        self._prompt = self._counter("prompt_tokens", "Tokens of prompts, without prefix rows.", ["model"])
        self._generated = self._counter("generated_tokens", "Generated tokens.", ["model"])
        self._rejections = self._counter("rejections", "Requests that were refused, by the error's code.", ["reason"])
        self._ttft = self._histogram("time_to_first_token_seconds", "Seconds from a request to its text.", _TTFT_S)
        self._inter_token = self._histogram("inter_token_seconds", "Seconds from token to token.", _INTER_TOKEN_S)
        self._registry.register(_StatusCollector(engine, store))

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


class _StatusCollector(Collector):
    """Asks the engine and the store at each reading."""

    def __init__(self, engine: Callable[[], EngineStatus], store: Callable[[], StoreStatus]) -> None:
        self._engine = engine
        self._store = store

    def collect(self) -> Iterator[Metric]:
        """The gauges, and the counters that are kept elsewhere."""
        engine, store = self._engine(), self._store()
        gauges = {
            "requests_running": (engine.num_running, "Requests in the batch."),
            "requests_waiting": (engine.num_waiting, "Requests that wait for a row of the batch."),
            "batch_rows": (engine.num_rows, "Largest number of requests in the batch."),
            "text_bytes": (engine.text_bytes, "Memory of the text caches."),
            "prefix_bytes": (engine.prefix_bytes, "Memory of the prefixes."),
            "engine_heartbeat_age_seconds": (engine.heartbeat_age_s, "Seconds since the engine's loop came round."),
            "tasks": (store.num_bundles, "Bundles that the server offers."),
            "prefixes_loaded": (store.num_loaded, "Versions whose prefix is in memory."),
        }
        counters = {
            "engine_tokens": (engine.num_new_tokens, "Tokens that the engine has generated."),
            "prefix_loads": (store.num_loads, "Prefixes that were read into memory."),
            "prefix_evictions": (store.num_evictions, "Prefixes whose memory was taken for others."),
        }
        for name, (value, about) in gauges.items():
            yield GaugeMetricFamily(f"ptl_prefix_{name}", about, value)
        for name, (value, about) in counters.items():
            yield CounterMetricFamily(f"ptl_prefix_{name}", about, value)
