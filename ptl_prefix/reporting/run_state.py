"""The state of a run, and its summary for a list of runs.

In: a run folder, complete or not. Out: its state and a `RunSummary`. Nothing here raises, because a list shows damaged
runs too.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ptl_prefix.artifacts.event_log import read_events
from ptl_prefix.artifacts.metric_key import is_bare
from ptl_prefix.artifacts.remote.mirror_state import read_mirror_state
from ptl_prefix.artifacts.remote.open_run import is_fetched
from ptl_prefix.artifacts.run_config import read_config
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import RunRecord, read_record
from ptl_prefix.errors import PtlPrefixError

State = Literal["finished", "stopped", "failed", "pruned", "running", "open", "died", "damaged"]
"""The status in the record, or `running`: a process holds the folder's lock; `open`: a mirrored run without a record,
which runs on another machine or was killed there; `died`: no process and no record; `damaged`: the record is not
readable."""

_GENERIC_METRICS = ("loss", "perplexity", "bits_per_character")
"""Test metrics that every task has; a task's own metrics come first."""


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """One run in a list.

    Args:
        path: Run folder, or address of a mirrored run.
        state: State of the run.
        task: Name of the task; empty if neither record nor config has it.
        backbone: Name of the backbone; empty if neither record nor config has it.
        method: Name of the method; empty if neither record nor config has it.
        seed: Seed; `None` if neither record nor config has it.
        step: Optimizer steps completed, according to the record or the log.
        metric: Name of the main metric; empty if none was measured yet.
        value: Value of the main metric.
        direction: Whether the main metric is minimized or maximized; `None` if unknown.
        age_s: Seconds since a file of the run was last written.
        size_bytes: Size of the folder on disk, or of the mirror.
    """

    path: Path | str
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
    """Return the state of a run. A running process takes precedence: a resumed run still has its older record."""
    if folder.is_held():
        return "running"
    if not folder.record.exists():
        return "open" if is_fetched(folder.path) else "died"
    try:
        return read_record(folder.record).status
    except PtlPrefixError:
        return "damaged"


def summarize_run(folder: RunFolder) -> RunSummary:
    """Summarize a run from its record, or from its config and log if there is no record or the run is running."""
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
        path=folder.place,
        state=state,
        **names,
        seed=seed,
        step=step,
        metric=main or "",
        value=metrics[main] if main else None,
        direction=_direction(record, main),
        age_s=max(0.0, time.time() - _last_written(folder)),
        size_bytes=_size_of(folder),
    )


def _direction(record: RunRecord | None, metric: str | None) -> Literal["minimize", "maximize"] | None:
    info = None if record is None or metric is None else record.metric_info.get(metric)
    if info is not None:
        return info.direction
    return "minimize" if metric == "val/loss" else None


def main_metric(metrics: dict[str, float]) -> str | None:
    """The main metric: the first test metric of the task's own, else the validation loss, else the first metric."""
    trained = [name for name in metrics if not is_bare(name)]
    of_test = [name for name in trained if name.startswith("test/")]
    own = [name for name in of_test if name.removeprefix("test/") not in _GENERIC_METRICS]
    losses = [name for name in trained if name == "val/loss"]
    return next(iter([*own, *losses, *trained]), None)


def bytes_on_disk(folder: Path) -> int:
    """The total size of a folder's files; files that vanish meanwhile count as 0."""
    return sum(_size(path) for path in _files(folder))


def _size_of(folder: RunFolder) -> int:
    """The size of a run; of a mirrored one also of the files that were not fetched."""
    state = read_mirror_state(folder.path) if is_fetched(folder.path) else None
    return bytes_on_disk(folder.path) if state is None else state.num_bytes


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
        return read_config(folder)
    except PtlPrefixError:
        return {}


def _name(node: Any) -> str:
    return str(node.get("name", "")) if isinstance(node, dict) else ""


def _progress(folder: RunFolder) -> tuple[int, dict[str, float]]:
    """The last step and the latest validation loss in the log."""
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
    except OSError:  # the folder vanished meanwhile
        return time.time()
