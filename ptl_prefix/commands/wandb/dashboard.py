"""`ptl-prefix wandb dashboard`: builds a W&B workspace that compares methods, and pushes it if possible.

In: folders with runs; their configs name the W&B project, and their records the metrics. Out: a JSON file. It also
stores the ids of what was pushed, so that the next push replaces it.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.artifacts.run_config import read_config
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import read_record
from ptl_prefix.errors import DataError, PtlPrefixError
from ptl_prefix.reporting.run_search import find_runs
from ptl_prefix.reporting.run_state import main_metric
from ptl_prefix.tracking.dashboard import Dashboard
from ptl_prefix.tracking.tracking import Tracking
from ptl_prefix.tracking.wandb_mode import is_reachable, resolve_mode
from ptl_prefix.tracking.wandb_sink import has_key, server_url

_OUT = "outputs/wandb-workspace.json"
_DEFAULT_METRIC = "val/loss"


def show_dashboard(config: dict[str, Any], folders: Sequence[Path], console: Console) -> None:
    """Write the workspace, push it if possible, and print its paths and URLs.

    Args:
        config: `out`, `project`, `entity` and `metric`.
        folders: Folders with runs.
        console: Console to print to.
    """
    runs = list(_runs_in(folders))
    project = config["project"] or _most_common(_tracking_of(runs, "project")) or Tracking().project
    entity = config["entity"] or _most_common(_tracking_of(runs, "entity"))
    dashboard = Dashboard(project, [config["metric"]] if config["metric"] else _metrics_of(runs))
    out = Path(config["out"] or _OUT)
    pushed = _pushed_before(out, project, entity)
    _write(out, {**dashboard.document(entity), "pushed": pushed})
    console.print(f"workspace: {out}", highlight=False, soft_wrap=True)
    if reason := _why_not_pushed():
        console.print(f"not pushed, {reason}; run the same command again to push it", highlight=False, soft_wrap=True)
        return
    for name, push in (("workspace", dashboard.push_workspace), ("report", dashboard.push_report)):
        view = push(entity, pushed.get(name, {}))
        pushed[name] = asdict(view)
        _write(out, {**dashboard.document(entity), "pushed": pushed})
        console.print(f"{name}: {view.url}", highlight=False, soft_wrap=True)


def _why_not_pushed() -> str:
    """The reason not to push, empty if there is none; the same rules decide whether runs are tracked online."""
    mode = resolve_mode("auto", os.environ)
    url = server_url()
    if mode in ("offline", "none"):
        return f"because WANDB_MODE is {os.environ['WANDB_MODE']}"
    if not has_key(url):
        return "because there is no API key"
    return "" if is_reachable(url) else f"because {url} does not respond"


def _runs_in(folders: Sequence[Path]) -> Iterator[RunFolder]:
    for folder in folders:
        try:
            yield from find_runs([str(folder)])
        except PtlPrefixError:  # a dashboard can be built before the first run
            continue


def _tracking_of(runs: Sequence[RunFolder], key: str) -> Iterator[str]:
    for run in runs:
        try:
            value = (read_config(run).get("tracking") or {}).get(key)
        except PtlPrefixError:
            continue
        if value:
            yield str(value)


def _metrics_of(runs: Sequence[RunFolder]) -> list[str]:
    """The main metrics of the runs, the most common first."""
    found: Counter[str] = Counter()
    for run in runs:
        try:
            found[main_metric(read_record(run.record).metrics) or _DEFAULT_METRIC] += 1
        except PtlPrefixError:
            continue
    return [name for name, _ in found.most_common()] or [_DEFAULT_METRIC]


def _most_common(values: Iterator[str]) -> str | None:
    return next((value for value, _ in Counter(values).most_common(1)), None)


def _pushed_before(out: Path, project: str, entity: str | None) -> dict[str, Any]:
    """What an earlier call has pushed for this project; empty if `out` is no such file."""
    try:
        document = json.loads(out.read_text(encoding="utf-8"))
        if (document["project"], document["entity"]) == (project, entity) and isinstance(document["pushed"], dict):
            return document["pushed"]
    except (OSError, ValueError, TypeError, KeyError):
        pass
    return {}


def _write(out: Path, document: dict[str, Any]) -> None:
    try:
        write_atomically(out, json.dumps(document, indent=2) + "\n")
    except OSError as error:
        raise DataError(f"`out` must be a writable file, but '{out}' is not ({error.strerror}).") from error
