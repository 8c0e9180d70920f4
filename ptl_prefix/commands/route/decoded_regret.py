"""Decodes inputs with the bundle that they were routed to and with their own, and compares the metrics.

In: bundles, the chosen task of each input, and the backbone that they share. Out: `DecodedRegret` for each task.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ptl_prefix.artifacts.bundle import read_bundle
from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.commands.route.routed_bundles import RoutedBundle, Rows
from ptl_prefix.evaluation.decode import DecodingJob, decode
from ptl_prefix.evaluation.regret import Regret, regrets
from ptl_prefix.methods.restore import restore


@dataclass(frozen=True)
class DecodedRegret:
    """The regret of one task.

    Args:
        task: Name of the task.
        num_inputs: Number of inputs that were compared, all of them answered by the router.
        num_wrong: Number of these that were routed to another task.
        decode_s: Seconds of decoding.
        regrets: One entry for each metric of the task.
    """

    task: str
    num_inputs: int
    num_wrong: int
    decode_s: float
    regrets: tuple[Regret, ...]


@dataclass(frozen=True)
class _Compared:
    """The inputs of one task that are decoded: their rows, and the task that each was routed to."""

    bundle: RoutedBundle
    rows: Rows
    chosen: list[str]


def decode_regret(
    bundles: Sequence[RoutedBundle],
    chosen: Mapping[str, Sequence[str | None]],
    backbone: Backbone,
    config: Mapping[str, Any],
) -> list[DecodedRegret]:
    """Measure the regret of each task whose run has references.

    Args:
        bundles: The bundles.
        chosen: For each task, the tasks that its inputs were routed to; `None` for a refused input.
        backbone: Backbone of the bundles.
        config: `regret_examples`, `resamples`, `resample_seed` and `batch_size`.
    """
    compared = [_compared(one, chosen[one.name], config["regret_examples"]) for one in bundles if one.task is not None]
    compared = [one for one in compared if one.rows]
    outputs: dict[tuple[str, str], Prediction] = {}
    seconds = dict.fromkeys((one.bundle.name for one in compared), 0.0)
    for bundle in bundles:
        needed = {one.bundle.name: _rows_for(bundle.name, one) for one in compared}
        if any(needed.values()):
            _decode(bundle, needed, backbone, config["batch_size"], outputs, seconds)
    return [_measured(one, outputs, seconds[one.bundle.name], config) for one in compared]


def _compared(bundle: RoutedBundle, chosen: Sequence[str | None], most: int) -> _Compared:
    """Answered inputs, evenly spread."""
    answered = [index for index, name in enumerate(chosen) if name is not None]
    kept = min(most, len(answered))
    indices = [answered[place * len(answered) // kept] for place in range(kept)]
    return _Compared(bundle, [bundle.rows[index] for index in indices], [str(chosen[index]) for index in indices])


def _rows_for(name: str, one: _Compared) -> Rows:
    """The rows that a bundle decodes: all of its own task, and those of others that were routed to it."""
    own = one.bundle.name == name
    return [row for row, chosen in zip(one.rows, one.chosen, strict=True) if own or chosen == name]


def _decode(
    bundle: RoutedBundle,
    needed: Mapping[str, Rows],
    backbone: Backbone,
    batch_size: int,
    outputs: dict[tuple[str, str], Prediction],
    seconds: dict[str, float],
) -> None:
    """Decode rows of several tasks with one bundle; add the outputs by task and bundle, and the seconds by task."""
    adaptation = restore(backbone, read_bundle(bundle.folder))
    try:
        for task, rows in needed.items():
            if not rows:
                continue
            started = time.monotonic()
            job = DecodingJob(
                backbone=backbone,
                method=adaptation.method,
                prompter=backbone.prompter(bundle.manifest.prompt),
                rows=rows,
                decoding=bundle.manifest.decoding,
                batch_size=batch_size,
                reserved_positions=adaptation.method.position_offset,
                labels=bundle.manifest.label_set,
            )
            outputs.update(((f"{task}/{one.id}", bundle.name), one) for one in decode(job))
            seconds[task] += time.monotonic() - started
    finally:
        adaptation.detach()


def _measured(
    one: _Compared, outputs: Mapping[tuple[str, str], Prediction], seconds: float, config: Mapping[str, Any]
) -> DecodedRegret:
    name, task = one.bundle.name, one.bundle.task
    assert task is not None  # only tasks are compared
    keys = [f"{name}/{row['example_id']}" for row in one.rows]
    found = regrets(
        routed=[outputs[key, chosen] for key, chosen in zip(keys, one.chosen, strict=True)],
        right=[outputs[key, name] for key in keys],
        metrics=task.metrics,
        resamples=config["resamples"],
        seed=config["resample_seed"],
    )
    num_wrong = sum(chosen != name for chosen in one.chosen)
    return DecodedRegret(name, len(one.rows), num_wrong, seconds, tuple(found))
