"""`ptl-prefix wandb dashboard`: the workspace that compares methods, as a file; pushed if there is a key and a server.

In: folders with runs, whose configs name W&B's project and whose records the metrics. Out: a JSON file, which also
remembers what was pushed, so that the next time replaces it.
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
_USUAL_METRIC = "val/loss"


def show_dashboard(config: dict[str, Any], folders: Sequence[Path], console: Console) -> None:
    """Write the workspace, push it if that can be, and say where it is.

    Args:
        config: `out`, `project`, `entity`, `metric`.
        folders: Where the runs are.
        console: Where it is said.
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
        console.print(f"not pushed, {reason}; the same line pushes it later", highlight=False, soft_wrap=True)
        return
    for name, push in (("workspace", dashboard.push_workspace), ("report", dashboard.push_report)):
        view = push(entity, pushed.get(name, {}))
        pushed[name] = asdict(view)
        _write(out, {**dashboard.document(entity), "pushed": pushed})
        console.print(f"{name}: {view.url}", highlight=False, soft_wrap=True)


def _why_not_pushed() -> str:
    """As runs decide whether they are tracked online."""
    mode = resolve_mode("auto", os.environ)
    url = server_url()
    if mode in ("offline", "none"):
        return f"as WANDB_MODE is {os.environ['WANDB_MODE']}"
    if not has_key(url):
        return "as there is no key"
    return "" if is_reachable(url) else f"as {url} does not answer"


def _runs_in(folders: Sequence[Path]) -> Iterator[RunFolder]:
    for folder in folders:
        try:
            yield from find_runs([str(folder)])
        except PtlPrefixError:  # a dashboard may be there before the first run
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
    """What each task's runs are known by, the most common first."""
    found: Counter[str] = Counter()
    for run in runs:
        try:
            found[main_metric(read_record(run.record).metrics) or _USUAL_METRIC] += 1
        except PtlPrefixError:
            continue
    return [name for name, _ in found.most_common()] or [_USUAL_METRIC]


def _most_common(values: Iterator[str]) -> str | None:
    return next((value for value, _ in Counter(values).most_common(1)), None)


def _pushed_before(out: Path, project: str, entity: str | None) -> dict[str, Any]:
    """What an earlier dashboard of this project became on the server; nothing of what is no such file."""
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
        raise DataError(f"`out` must be a file that can be written, but '{out}' cannot ({error.strerror}).") from error
