"""A server on loopback, in a thread of the test, with a scripted engine behind it."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from support.scripted_engine import (
    ListedStore,
    ScriptedEngine,
    embedded_tokenizer,
    made_up_base,
    made_up_bundle,
)

from ptl_prefix.serving.api_keys import ApiKeys, read_keys
from ptl_prefix.serving.health import Health
from ptl_prefix.serving.http_process import HttpProcess, address_of, bind
from ptl_prefix.serving.models import Models, StoreLike
from ptl_prefix.serving.request import EngineLike
from ptl_prefix.serving.routing import RouterLike
from ptl_prefix.serving.server import make_app
from ptl_prefix.serving.service import Limits, Service

KEY = "alices-key-0123456789"
OTHER_KEY = "bobs-key-0123456789"
ADMIN_KEY = "the-admins-key-0123456789"
LIMITS = {"max_requests": 64, "max_requests_per_client": 32, "max_body_bytes": 200_000, "request_timeout_s": 30.0}


def keys() -> ApiKeys:
    """The keys of the tests: one of the environment, and one of an admin."""
    return read_keys(None, {"PTL_PREFIX_API_KEY": KEY, "PTL_PREFIX_ADMIN_KEY": ADMIN_KEY})


@dataclass(frozen=True)
class LiveServer:
    """A running server and its parts."""

    url: str
    engine: ScriptedEngine
    store: ListedStore
    service: Service
    process: HttpProcess

    def client(self, key: str | None = KEY, **settings: Any) -> httpx.Client:
        """An HTTP client with a key."""
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=20, **settings)


def made_service(
    engine: EngineLike,
    store: StoreLike,
    *,
    limits: Mapping[str, Any] | None = None,
    router: RouterLike | None = None,
    **base: Any,
) -> Service:
    """A service with a made-up base."""
    models = Models(made_up_base(embedded_tokenizer(), **base), store, router)
    health = Health(engine, unhealthy_after_s=5.0, exit_after_s=600.0)
    return Service(
        engine=engine, models=models, store=store, limits=Limits(**{**LIMITS, **(limits or {})}), health=health
    )


@contextmanager
def live_server(
    *,
    engine: ScriptedEngine | None = None,
    limits: Mapping[str, Any] | None = None,
    router: RouterLike | None = None,
    drain_timeout_s: float = 5.0,
    rescan_every_s: float | None = None,
) -> Iterator[LiveServer]:
    """A server with the tasks `towns` and `rivers`."""
    tokenizer = embedded_tokenizer()
    engine = engine or ScriptedEngine()
    store = ListedStore([made_up_bundle("towns", tokenizer), made_up_bundle("rivers", tokenizer)])
    service = made_service(engine, store, limits=limits, router=router)
    listening = threading.Event()
    process = HttpProcess(
        make_app(service, keys()),
        service,
        drain_timeout_s=drain_timeout_s,
        rescan_every_s=rescan_every_s,
        when_listening=listening.set,
    )
    bound = bind("127.0.0.1", 0)
    thread = threading.Thread(target=process.serve_on, args=(bound,))
    thread.start()
    try:
        assert listening.wait(20)
        # Else its request could come between those of a test.
        wait_until(lambda: service.health.self_test == "passed")
        yield LiveServer(address_of(bound), engine, store, service, process)
    finally:
        process.should_exit = process.force_exit = True
        thread.join(20)
        bound.close()
        assert not thread.is_alive()


def wait_until(condition: Any, within_s: float = 10.0) -> None:
    """Wait until a function returns something true."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not become true"
        time.sleep(0.01)
