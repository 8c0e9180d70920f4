"""`ptl-prefix route evaluate`: measures how well a server would route texts to the bundles of a folder.

In: a folder of run folders or bundles, and a file of foreign texts. Out: tables, and `routing.json`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.mean_states import mean_states
from ptl_prefix.commands.config.bundle_inputs import load_bundle_backbone, source_lines
from ptl_prefix.commands.route.decoded_regret import DecodedRegret, decode_regret
from ptl_prefix.commands.route.routed_bundles import RoutedBundle, read_bundles
from ptl_prefix.commands.route.tables import as_values, show_regret, show_report
from ptl_prefix.errors import ConfigError
from ptl_prefix.evaluation.routing import RoutedText, routing_report
from ptl_prefix.serving.hidden_state_router import HiddenStateRouter
from ptl_prefix.serving.ngram_router import NgramRouter
from ptl_prefix.serving.router import RouteDecision, Router
from ptl_prefix.training.console import EscapingConsole

RESULT_FILE = "routing.json"


def run(config: dict[str, Any], words: tuple[str, ...], run_folder: Path) -> None:
    """Evaluate the routers.

    Args:
        config: See `conf/route.yaml`.
        words: `evaluate`.
        run_folder: Not used, because an evaluation is not a run.
    """
    if words != ("evaluate",):
        raise ConfigError([f"`route` must be followed by evaluate, but got {' '.join(words) or 'nothing'!r}."])
    console, notes = EscapingConsole(), EscapingConsole(stderr=True)
    bundles = read_bundles(config)
    foreign = list(source_lines(config["foreign"]))
    needs_backbone = "hidden_states" in config["routers"] or config["regret_examples"]
    backbone = load_bundle_backbone(bundles[0].manifest, config) if needs_backbone else None
    results = {}
    for name in config["routers"]:
        router = _router(name, backbone, config["wrong_refusals"])
        for task, reason in router.update({one.name: one.facts for one in bundles}).items():
            notes.print(Text(f"{name}: no text is routed to {task}, which {reason}"), soft_wrap=True)
        texts, decisions = _routed(router, bundles, foreign)
        report = routing_report(texts)
        show_report(name, report, config["wrong_refusals"], console)
        regret = _regret(bundles, decisions, backbone, config, console)
        results[name] = {**as_values(report), "regret": [asdict(one) for one in regret]}
    path = Path(config["out"] or Path("outputs", "routing"), RESULT_FILE)
    write_atomically(path, json.dumps({"settings": _settings(config, bundles, foreign), **results}, indent=2) + "\n")
    console.print(Text(f"numbers: {path}"), soft_wrap=True)


def _router(name: str, backbone: Backbone | None, wrong_refusals: float) -> Router[Any]:
    if name == "ngrams":
        return NgramRouter(wrong_refusals=wrong_refusals)
    assert backbone is not None  # it is loaded if hidden states are asked for
    return HiddenStateRouter(vector_of=lambda text: mean_states(backbone, [text])[0], wrong_refusals=wrong_refusals)


def _routed(
    router: Router[Any], bundles: Sequence[RoutedBundle], foreign: Sequence[str]
) -> tuple[list[RoutedText], dict[str, list[RouteDecision]]]:
    """The decision on every text; and those on each task's inputs, by the task's name."""
    decisions = {one.name: [router.choose(row["source"]) for row in one.rows] for one in bundles}
    texts = [
        _text(one.name, decision, row["group"])
        for one in bundles
        for row, decision in zip(one.rows, decisions[one.name], strict=True)
    ]
    return [*texts, *(_text(None, router.choose(text), "") for text in foreign)], decisions


def _text(own: str | None, decision: RouteDecision, group: str) -> RoutedText:
    return RoutedText(own, decision.name, decision.scores[0].name if decision.scores else None, group)


def _regret(
    bundles: Sequence[RoutedBundle],
    decisions: Mapping[str, list[RouteDecision]],
    backbone: Backbone | None,
    config: Mapping[str, Any],
    console: Console,
) -> list[DecodedRegret]:
    if backbone is None or not config["regret_examples"]:
        return []
    chosen = {name: [one.name for one in of_task] for name, of_task in decisions.items()}
    found = decode_regret(bundles, chosen, backbone, config)
    show_regret(found, console)
    return found


def _settings(config: Mapping[str, Any], bundles: Sequence[RoutedBundle], foreign: Sequence[str]) -> dict[str, Any]:
    """What the numbers depend on."""
    kept = ("bundles", "foreign", "wrong_refusals", "split", "num_examples", "regret_examples", "resamples")
    return {
        **{key: config[key] for key in kept},
        "tasks": {
            one.name: {"tensors_sha256": one.manifest.tensors_sha256, "inputs": len(one.rows)} for one in bundles
        },
        "num_foreign": len(foreign),
    }
