"""`ptl-prefix wandb sync`: what was tracked offline, shown, and sent when asked.

In: folders with runs. Out: a table of what W&B's server does not have; with `yes=true`, it has it.
"""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ptl_prefix.artifacts.run_config import read_config
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import read_record
from ptl_prefix.errors import ConfigError, PtlPrefixError, RunError
from ptl_prefix.tracking.unsent import UnsentRun, send, unsent_runs
from ptl_prefix.tracking.wandb_mode import answers
from ptl_prefix.tracking.wandb_sink import has_key, server_url

_ACTIONS = ("sync",)


def run(config: dict[str, Any], words: tuple[str, ...], run_folder: Path) -> None:
    """Show or send.

    Args:
        config: `yes`.
        words: `sync`, and folders; none: `outputs`.
        run_folder: Not used; sending is no run.
    """
    action, folders = (words[0] if words else ""), [Path(word) for word in words[1:] or ("outputs",)]
    mistakes = [f"`wandb` needs one of {', '.join(_ACTIONS)}, but got {action!r}."] if action not in _ACTIONS else []
    mistakes += [f"Runs must lie in a folder, but there is none at '{path}'." for path in folders if not path.is_dir()]
    if mistakes:
        raise ConfigError(mistakes)
    console = Console()
    found = unsent_runs(folders)
    ready = [one for one in found if not one.is_at_work]
    if len(ready) < len(found):
        console.print(f"{len(found) - len(ready)} at work now, and left alone", highlight=False)
    if not ready:
        console.print("Nothing is left to send.")
        return
    url = server_url()
    console.print(_table(ready, url))
    console.print("Each is sent with its settings, curves, samples of text, bundle, git commit and machine.")
    if not config["yes"]:
        console.print("Nothing was sent yet; the same line with yes=true sends this.")
        return
    _send(ready, url)
    console.print(f"Sent {len(ready)} to {url}", highlight=False)


def _send(runs: list[UnsentRun], url: str) -> None:
    if not has_key(url):
        raise RunError(f"W&B needs a key for {url}, but there is none; set WANDB_API_KEY, or run: wandb login")
    if not answers(url, within_s=10.0):
        raise RunError(f"W&B's server must answer, but {url} does not; nothing was sent. Try again later.")
    if missing := send(runs):
        folders = "\n".join(f"  {one.folder.path}" for one in missing)
        raise RunError(f"All runs must arrive, but {len(missing)} did not; the same line tries again:\n{folders}")


def _table(runs: list[UnsentRun], url: str) -> Table:
    table = Table(title=f"Not on {url} yet", title_justify="left")
    for heading in ("run", "status", "method", "task", "from", "size"):
        table.add_column(heading, justify="right" if heading == "size" else "left", overflow="fold")
    for one in runs:
        source = "W&B's file" if one.is_whole else one.folder.events.name
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
