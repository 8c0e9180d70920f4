"""`ptl-prefix wandb`: lists and uploads runs that W&B's server does not have, and builds a dashboard.

In: `sync` or `dashboard`, and folders with runs. Out: a table of runs to upload, and with `yes=true` their upload; or a
workspace file, which is pushed if the server is reachable.
"""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ptl_prefix.artifacts.run_config import read_config
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import read_record
from ptl_prefix.commands.wandb.dashboard import show_dashboard
from ptl_prefix.errors import ConfigError, PtlPrefixError, RunError
from ptl_prefix.tracking.wandb_mode import is_reachable
from ptl_prefix.tracking.wandb_sink import has_key, server_url
from ptl_prefix.tracking.wandb_sync import UnsyncedRun, find_unsynced_runs, upload
from ptl_prefix.training.console import EscapingConsole

_SETTINGS = {"sync": ("yes",), "dashboard": ("out", "project", "entity", "metric")}
"""Actions, and the settings that each reads."""


def run(config: dict[str, Any], words: tuple[str, ...], run_folder: Path) -> None:
    """List and upload runs, or build the dashboard.

    Args:
        config: See `WandbSettings`.
        words: Action and folders; the default folder is `outputs`.
        run_folder: Not used, because this is not a run.
    """
    action, folders = (words[0] if words else ""), [Path(word) for word in words[1:] or ("outputs",)]
    console = EscapingConsole()
    if problems := _problems(action, folders, config):
        raise ConfigError(problems)
    if action == "dashboard":
        show_dashboard(config, folders, console)
    else:
        _sync(folders, console, uploads=config["yes"])


def _problems(action: str, folders: list[Path], config: dict[str, Any]) -> list[str]:
    if action not in _SETTINGS:
        return [f"`wandb` must be followed by {' or '.join(_SETTINGS)}, but got {action!r}."]
    unread = [key for keys in _SETTINGS.values() for key in keys if config[key] and key not in _SETTINGS[action]]
    return [
        *(f"`{key}` must not be set, because `wandb {action}` does not read it; remove it." for key in unread),
        *(
            f"`wandb {action}` needs folders with runs, but '{path}' is not a folder."
            for path in folders
            if not path.is_dir()
        ),
    ]


def _sync(folders: list[Path], console: Console, *, uploads: bool) -> None:
    found = find_unsynced_runs(folders)
    ready = [one for one in found if not one.is_running]
    if len(ready) < len(found):
        console.print(f"skipped {len(found) - len(ready)} that are still running", highlight=False)
    if not ready:
        console.print("There are no runs to upload.")
        return
    url = server_url()
    console.print(_table(ready, url))
    console.print("Each upload contains the run's settings, curves, text samples, bundle, git commit and machine.")
    if not uploads:
        console.print("Nothing was uploaded yet; run the same command with yes=true to upload these runs.")
        return
    _upload(ready, url)
    console.print(f"uploaded {len(ready)} to {url}", highlight=False)


def _upload(runs: list[UnsyncedRun], url: str) -> None:
    if not has_key(url):
        raise RunError(f"W&B needs an API key for {url}, but found none; set WANDB_API_KEY, or run: wandb login")
    if not is_reachable(url, within_s=10.0):
        raise RunError(
            f"W&B's server must be reachable, but {url} does not respond; nothing was uploaded. Try again later."
        )
    if failed := upload(runs):
        folders = "\n".join(f"  {one.folder.path}" for one in failed)
        raise RunError(f"{len(failed)} run(s) were not uploaded; run the same command again:\n{folders}")


def _table(runs: list[UnsyncedRun], url: str) -> Table:
    table = Table(title=f"Not yet on {url}", title_justify="left")
    for heading in ("run", "status", "method", "task", "source", "size"):
        table.add_column(heading, justify="right" if heading == "size" else "left", overflow="fold")
    for one in runs:
        source = "W&B's file" if one.is_complete else one.folder.events.name
        size = f"{one.num_bytes / 1e6:,.1f} MB"
        table.add_row(str(one.folder.path), _status(one.folder), *_names(one.folder), source, size)
    return table


def _status(folder: RunFolder) -> str:
    """The status in the record; a run without a record died."""
    try:
        return read_record(folder.record).status if folder.record.exists() else "died"
    except PtlPrefixError:
        return "unreadable"


def _names(folder: RunFolder) -> tuple[str, str]:
    try:
        config = read_config(folder)
        return str(config["method"]["name"]), str(config["task"]["name"])
    except (RunError, TypeError, KeyError):
        return "", ""
