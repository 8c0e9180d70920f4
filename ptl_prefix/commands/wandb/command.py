"""`ptl-prefix wandb`: what was tracked offline, shown, and sent when asked; and the dashboard that compares methods.

In: `sync` or `dashboard`, and folders with runs. Out: a table of what W&B's server does not have, which it has with
`yes=true`; or a workspace as a file, pushed where a server is reachable.
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
from ptl_prefix.tracking.wandb_sync import UnsyncedRun, find_unsynced_runs, send

_SETTINGS = {"sync": ("yes",), "dashboard": ("out", "project", "entity", "metric")}
"""What may be done, and the settings that it reads."""


def run(config: dict[str, Any], words: tuple[str, ...], run_folder: Path) -> None:
    """Show, send, or build.

    Args:
        config: See `WandbSettings`.
        words: What to do, and folders; none: `outputs`.
        run_folder: Not used; this is no run.
    """
    action, folders = (words[0] if words else ""), [Path(word) for word in words[1:] or ("outputs",)]
    console = Console()
    if mistakes := _mistakes(action, folders, config):
        raise ConfigError(mistakes)
    if action == "dashboard":
        show_dashboard(config, folders, console)
    else:
        _show_unsent(folders, console, sends=config["yes"])


def _mistakes(action: str, folders: list[Path], config: dict[str, Any]) -> list[str]:
    if action not in _SETTINGS:
        return [f"`wandb` needs one of {', '.join(_SETTINGS)}, but got {action!r}."]
    unread = [key for keys in _SETTINGS.values() for key in keys if config[key] and key not in _SETTINGS[action]]
    return [
        *(f"`{key}` is not read by `wandb {action}`; leave it out." for key in unread),
        *(f"Runs must lie in a folder, but there is none at '{path}'." for path in folders if not path.is_dir()),
    ]


def _show_unsent(folders: list[Path], console: Console, *, sends: bool) -> None:
    found = find_unsynced_runs(folders)
    ready = [one for one in found if not one.is_running]
    if len(ready) < len(found):
        console.print(f"{len(found) - len(ready)} at work now, and left alone", highlight=False)
    if not ready:
        console.print("Nothing is left to send.")
        return
    url = server_url()
    console.print(_table(ready, url))
    console.print("Each is sent with its settings, curves, samples of text, bundle, git commit and machine.")
    if not sends:
        console.print("Nothing was sent yet; the same line with yes=true sends this.")
        return
    _send(ready, url)
    console.print(f"Sent {len(ready)} to {url}", highlight=False)


def _send(runs: list[UnsyncedRun], url: str) -> None:
    if not has_key(url):
        raise RunError(f"W&B needs a key for {url}, but there is none; set WANDB_API_KEY, or run: wandb login")
    if not is_reachable(url, within_s=10.0):
        raise RunError(f"W&B's server must answer, but {url} does not; nothing was sent. Try again later.")
    if missing := send(runs):
        folders = "\n".join(f"  {one.folder.path}" for one in missing)
        raise RunError(f"All runs must arrive, but {len(missing)} did not; the same line tries again:\n{folders}")


def _table(runs: list[UnsyncedRun], url: str) -> Table:
    table = Table(title=f"Not on {url} yet", title_justify="left")
    for heading in ("run", "status", "method", "task", "from", "size"):
        table.add_column(heading, justify="right" if heading == "size" else "left", overflow="fold")
    for one in runs:
        source = "W&B's file" if one.is_complete else one.folder.events.name
        size = f"{one.num_bytes / 1e6:,.1f} MB"
        table.add_row(str(one.folder.path), _status(one.folder), *_names(one.folder), source, size)
    return table


def _status(folder: RunFolder) -> str:
    """As the record has it; a run without one was cut off."""
    try:
        return read_record(folder.record).status if folder.record.exists() else "cut off"
    except PtlPrefixError:
        return "unreadable"


def _names(folder: RunFolder) -> tuple[str, str]:
    try:
        config = read_config(folder)
        return str(config["method"]["name"]), str(config["task"]["name"])
    except (RunError, TypeError, KeyError):
        return "", ""
