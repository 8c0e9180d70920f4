"""`ptl-prefix serve`: answers for every bundle of a folder over HTTP, with one backbone in memory.

In: a folder of bundles and, where the bundles do not name it, a backbone. Out: it served until SIGTERM or Ctrl-C. What
is wrong with the settings, the keys or the address is said before any weights load.
"""

import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from ptl_prefix.artifacts.document_text import stale_note
from ptl_prefix.artifacts.paged_prefix import paged_problem
from ptl_prefix.artifacts.remote.address import RemoteAddress, is_remote_address
from ptl_prefix.artifacts.remote.served_folder import ServedFolder
from ptl_prefix.artifacts.visible_text import escape_controls
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.mean_states import mean_states
from ptl_prefix.commands.serve.served_backbone import (
    backbone_problems,
    base_of,
    load_served_backbone,
    readable_manifests,
)
from ptl_prefix.errors import ConfigError
from ptl_prefix.serving.api_keys import ADMIN_KEY_VARIABLE, KEY_VARIABLE, ApiKeys, generated_key, read_keys
from ptl_prefix.serving.engine import Engine
from ptl_prefix.serving.health import Health
from ptl_prefix.serving.hidden_state_router import HiddenStateRouter
from ptl_prefix.serving.http_process import HttpProcess, address_of, bind, is_loopback
from ptl_prefix.serving.models import Models, decoding_not_followed
from ptl_prefix.serving.ngram_router import NgramRouter
from ptl_prefix.serving.offered_routes import OfferedRoutes
from ptl_prefix.serving.prefix_store import PrefixStore
from ptl_prefix.serving.scheduler import SchedulerSettings
from ptl_prefix.serving.server import make_app
from ptl_prefix.serving.service import Limits, Service
from ptl_prefix.serving.vllm_engine import VllmEngine
from ptl_prefix.serving.vllm_gateway import UPSTREAM_KEY_VARIABLE, upstream_problems
from ptl_prefix.training.console import EscapingConsole

_NUM_SHOWN = 50
"""Lines of each kind that are printed at the start."""


def run(config: dict[str, Any], words: tuple[str, ...], run_folder: Path) -> None:
    """Serve until a signal.

    Args:
        config: See `ServeSettings`.
        words: Not used, because `serve` takes no arguments.
        run_folder: Not used, because serving is not a run.

    Raises:
        ConfigError: When settings, keys or address are wrong.
    """
    console = EscapingConsole()
    if not is_remote_address(config["bundles"]):
        _serve_folder(config, Path(config["bundles"]), console)
        return
    served = ServedFolder(
        RemoteAddress.parse(config["bundles"]), lambda text: console.print(Text(text), soft_wrap=True)
    )
    try:
        served.begin()
        _serve_folder(config, served.path, console, served.refresh)
    finally:
        served.remove()


def _serve_folder(
    config: dict[str, Any], folder: Path, console: Console, refresh: Callable[[], None] = lambda: None
) -> None:
    """Serve the bundles of a folder, which `refresh` brings up to date."""
    manifests = readable_manifests(folder)
    problems = [] if config["upstream"] is None else upstream_problems(config["upstream"])
    keys, bound = _keys_and_socket(config, [*problems, *backbone_problems(manifests, config)])
    key = None
    if not len(keys):
        key, keys = generated_key()
    with bound:
        console.print("loading the backbone ...", highlight=False)
        backbone = load_served_backbone(manifests, config)
        store = PrefixStore(folder, backbone, max_bytes=config["prefix_megabytes"] * 10**6, refresh=refresh)
        store.rescan()
        engine = _engine(config, backbone, store)
        engine.start()
        try:
            code = _serve(config, engine, store, backbone, bound, keys, key, console)
        finally:
            engine.stop()
    if code:
        raise SystemExit(code)


def _keys_and_socket(config: dict[str, Any], problems: list[str]) -> tuple[ApiKeys, socket.socket]:
    """The keys and the bound address, or every problem with them at once."""
    keys, bound = ApiKeys({}), None
    try:
        keys = read_keys(config["api_keys_file"], os.environ)
    except ConfigError as error:
        problems += error.mistakes
    try:
        bound = bind(config["host"], config["port"])
    except ConfigError as error:
        problems += error.mistakes
    if bound is not None and not is_loopback(bound) and not len(keys) and not problems:
        problems.append(
            f"`host` must be of this machine alone where there are no API keys, but other machines reach "
            f"{config['host']}; set api_keys_file=<file>, or ${KEY_VARIABLE}."
        )
    if problems or bound is None:
        if bound is not None:
            bound.close()
        raise ConfigError(problems)
    return keys, bound


def _engine(config: dict[str, Any], backbone: Backbone, store: PrefixStore) -> Engine | VllmEngine:
    if config["engine"] == "vllm":
        return VllmEngine(config["upstream"], store, backbone, api_key=os.environ.get(UPSTREAM_KEY_VARIABLE))
    return Engine(backbone, store, _scheduler_settings(config))


def _scheduler_settings(config: dict[str, Any]) -> SchedulerSettings:
    return SchedulerSettings(
        max_rows=config["max_rows"],
        max_text_bytes=config["text_megabytes"] * 10**6,
        max_prefix_bytes=config["prefix_megabytes"] * 10**6,
        chunk_tokens=config["chunk_tokens"],
    )


def _serve(
    config: dict[str, Any],
    engine: Engine | VllmEngine,
    store: PrefixStore,
    backbone: Backbone,
    bound: socket.socket,
    keys: ApiKeys,
    key: str | None,
    console: Console,
) -> int:
    limits = Limits(
        max_requests=config["max_requests"],
        max_requests_per_client=config["max_requests_per_client"],
        max_body_bytes=config["max_body_bytes"],
        request_timeout_s=config["request_timeout_s"],
    )
    health = Health(engine, unhealthy_after_s=config["unhealthy_after_s"], exit_after_s=config["exit_after_s"])
    routes = _routes(config, engine, store, backbone)
    base = base_of(backbone, max_new_tokens=config["base_max_new_tokens"])
    if isinstance(engine, VllmEngine):
        base = replace(base, max_positions=min(base.max_positions or engine.max_model_len, engine.max_model_len))
    models = Models(base, store, routes)
    service = Service(engine=engine, models=models, store=store, limits=limits, health=health)
    process = HttpProcess(
        make_app(service, keys),
        service,
        drain_timeout_s=config["drain_timeout_s"],
        rescan_every_s=config["rescan_every_s"],
        when_listening=lambda: _announce(store, routes, backbone, bound, key, console),
    )
    return process.serve_on(bound)


def _routes(
    config: dict[str, Any], engine: Engine | VllmEngine, store: PrefixStore, backbone: Backbone
) -> OfferedRoutes | None:
    """What chooses the task of `model: "auto"`."""
    rate = config["wrong_refusals"]
    if config["router"] == "ngrams":
        return OfferedRoutes(store, NgramRouter(wrong_refusals=rate))
    if config["router"] == "hidden_states":
        assert isinstance(engine, Engine)  # the settings refuse vLLM, which has no bare hidden states to give

        def vector_of(text: str) -> Any:
            return engine.compute(lambda: mean_states(backbone, [text])[0])

        return OfferedRoutes(store, HiddenStateRouter(vector_of=vector_of, wrong_refusals=rate))
    return None


def _announce(
    store: PrefixStore,
    routes: OfferedRoutes | None,
    backbone: Backbone,
    bound: socket.socket,
    key: str | None,
    console: Console,
) -> None:
    """Say where the server is, what it serves, and where its key is."""
    address = address_of(bound)
    place = "on vLLM" if backbone.is_shape_only else str(backbone.device)
    lines = [f"{backbone.name} ({backbone.precision}, {place}) serves {len(store.bundles())} task(s):"]
    for bundle in store.bundles()[:_NUM_SHOWN]:
        unfollowed = decoding_not_followed(bundle.manifest.decoding)
        note = f"; does not follow its {', '.join(unfollowed)}" if unfollowed else ""
        if backbone.is_shape_only and (problem := paged_problem(bundle.manifest)) is not None:
            note = f"; refused: {problem}"
        lines.append(
            f"  {bundle.model_id}  {bundle.manifest.method}, {bundle.num_rows} rows, "
            f"{bundle.num_bytes / 1e3:,.1f} kB{note}"
        )
        if (stale := stale_note(bundle.manifest)) is not None:
            lines.append(f"    stale: {escape_controls(stale)}")
    lines += _rest(len(store.bundles()), "tasks, which /v1/models lists")
    reasons = {} if routes is None else routes.reasons
    lines += [f"  not chosen by auto: {name}, which {why}" for name, why in sorted(reasons.items())[:_NUM_SHOWN]]
    lines += _rest(len(reasons), "tasks are not chosen by auto")
    problems = sorted(store.problems.items())
    lines += [f"  not served: {escape_controls(name)}: {escape_controls(why)}" for name, why in problems[:_NUM_SHOWN]]
    lines += _rest(len(problems), "folders are not served")
    if key is None:
        lines += [f"API:  {address}/v1", f"page: {address}/", "key:  one of `api_keys_file` or the environment"]
    else:
        lines += [
            f"API:  {address}/v1",
            f"page: {address}/#key={key}",
            f"key:  {key}  (made for this start; set api_keys_file=, ${KEY_VARIABLE} and ${ADMIN_KEY_VARIABLE} "
            "to choose your own)",
        ]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _rest(num: int, what: str) -> list[str]:
    """A line about what is not listed of a folder of thousands."""
    return [f"  and {num - _NUM_SHOWN:,} more {what}"] if num > _NUM_SHOWN else []
