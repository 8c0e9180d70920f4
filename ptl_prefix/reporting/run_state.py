"""What has become of a run, for a list of many.

In: a run's folder, whatever is left of it. Out: its state, and a line about it. Nothing raises here: a list must show
the damaged run beside the sound ones.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from ptl_prefix.artifacts.event_log import read_events
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import RunRecord, read_record
from ptl_prefix.errors import PtlPrefixError

State = Literal["finished", "stopped", "failed", "pruned", "running", "died", "damaged"]
"""As the record says; or running: a process holds the folder; died: neither process nor record; damaged: the record
cannot be read."""

_NOT_THE_MAIN = ("loss", "perplexity", "bits_per_character")
"""Metrics of `test/` that every task has; what a task is about comes before them."""


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """One run in a list.

    Args:
        path: Its folder.
        state: What has become of it.
        task: The task's name; empty where neither record nor config says it.
        backbone: The backbone's name; likewise.
        method: The method's name; likewise.
        seed: Its seed; likewise `None`.
        step: Optimiser steps done, as far as its record or its log says.
        metric: The name of its main metric; empty before there is one.
        value: That metric's number.
        direction: Which way it is better, where the record says so; a loss is known to be better when it is less.
        age_s: Seconds since anything was last written of it.
        size_bytes: What its folder takes on disk.
    """

    path: Path
    state: State
    task: str
    backbone: str
    method: str
    seed: int | None
    step: int
    metric: str
    value: float | None
    direction: Literal["minimize", "maximize"] | None
    age_s: float
    size_bytes: int


def read_state(folder: RunFolder) -> State:
    """What has become of a run. A process at work comes first: a run that goes on has an older record."""
    if folder.is_held():
        return "running"
    if not folder.record.exists():
        return "died"
    try:
        return read_record(folder.record).status
    except PtlPrefixError:
        return "damaged"


def summarize_run(folder: RunFolder) -> RunSummary:
    """What a list shows of a run."""
    state = read_state(folder)
    record = _record(folder)
    if record is not None and state != "running":
        names = {"task": record.task, "backbone": record.backbone, "method": record.method}
        seed: int | None = record.seed
        step, metrics = record.cost.steps, record.metrics
    else:
        config = _config(folder)
        names = {key: _name(config.get(key)) for key in ("task", "backbone", "method")}
        seed = config["seed"] if isinstance(config.get("seed"), int) else None
        step, metrics = _progress(folder)
    main = main_metric(metrics)
    return RunSummary(
        path=folder.path,
        state=state,
        **names,
        seed=seed,
        step=step,
        metric=main or "",
        value=metrics[main] if main else None,
        direction=_direction(record, main),
        age_s=max(0.0, time.time() - _last_written(folder)),
        size_bytes=bytes_on_disk(folder.path),
    )


def _direction(record: RunRecord | None, metric: str | None) -> Literal["minimize", "maximize"] | None:
    info = None if record is None or metric is None else record.metric_info.get(metric)
    if info is not None:
        return info.direction
    return "minimize" if metric == "val/loss" else None


def main_metric(metrics: dict[str, float]) -> str | None:
    """The metric by which a run is known: the first of the test's own, else the validation loss, else the first."""
    after = [name for name in metrics if not name.endswith("_before")]
    of_test = [name for name in after if name.startswith("test/")]
    own = [name for name in of_test if name.removeprefix("test/") not in _NOT_THE_MAIN]
    losses = [name for name in after if name == "val/loss"]
    return next(iter([*own, *losses, *after]), None)


def bytes_on_disk(folder: Path) -> int:
    """The sum of a folder's files; of what vanishes meanwhile, nothing."""
    return sum(_size(path) for path in _files(folder))


def _files(folder: Path) -> Iterator[Path]:
    for root, _, names in os.walk(folder):
        yield from (Path(root, name) for name in names)


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _record(folder: RunFolder) -> RunRecord | None:
    try:
        return read_record(folder.record)
    except PtlPrefixError:
        return None


def _config(folder: RunFolder) -> dict[str, Any]:
    try:
        config = yaml.safe_load(folder.config.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return config if isinstance(config, dict) else {}


def _name(node: Any) -> str:
    return str(node.get("name", "")) if isinstance(node, dict) else ""


def _progress(folder: RunFolder) -> tuple[int, dict[str, float]]:
    """How far the log of a run without a record goes, and its newest validation."""
    try:
        events = read_events(folder.events)
    except PtlPrefixError:
        return 0, {}
    losses = [event["val/loss"] for event in events if isinstance(event.get("val/loss"), int | float)]
    return max((event["step"] for event in events), default=0), {"val/loss": losses[-1]} if losses else {}


def _last_written(folder: RunFolder) -> float:
    written = [path for path in (folder.record, folder.events, folder.config, folder.last) if path.exists()]
    try:
        return max(path.stat().st_mtime for path in written or [folder.path])
    except OSError:  # it vanished meanwhile
        return time.time()
