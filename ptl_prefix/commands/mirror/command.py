"""`ptl-prefix mirror`: uploads run folders to their object store, fetches a mirrored run, or cleans one.

In: run folders, or addresses of mirrored runs. Out: mirrors that have everything; a run folder on this machine; or
mirrors without objects that no manifest names.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from ptl_prefix.artifacts.remote.address import RemoteAddress, is_remote_address
from ptl_prefix.artifacts.remote.fetch import fetch_into
from ptl_prefix.artifacts.remote.find_runs import find_manifests, remove_unnamed_objects
from ptl_prefix.artifacts.remote.mirror_run import mirror_run
from ptl_prefix.artifacts.remote.object_store import ObjectStore
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.errors import ConfigError
from ptl_prefix.reporting.run_search import find_runs
from ptl_prefix.training.console import EscapingConsole

_S_PER_H = 3600.0


def run(config: dict[str, Any], words: tuple[str, ...], run_folder: Path) -> None:
    """Upload, fetch or clean.

    Args:
        config: See `MirrorSettings`.
        words: Run folders or folders above them, or addresses.
        run_folder: Not used, because a mirror is not a run.
    """
    if problems := _problems(config, words):
        raise ConfigError(problems)
    console = EscapingConsole()
    if config["out"] is not None:
        folder = RunFolder(config["out"])
        fetch_into(RemoteAddress.parse(words[0]), folder, replaces=False)
        _print(console, f"{words[0]} is fetched into {folder.path}")
    elif config["clean"]:
        _clean(words, config["older_than_h"] * _S_PER_H, console)
    else:
        for folder in find_runs(words):
            address, manifest = mirror_run(folder, config["outputs_url"])
            _print(console, f"{folder.path} is mirrored at {address} ({len(manifest.files)} files)")


def _problems(config: dict[str, Any], words: Sequence[str]) -> list[str]:
    wants_addresses = config["clean"] or config["out"] is not None
    kind = "addresses of mirrored runs" if wants_addresses else "run folders"
    if not words:
        return [f"`mirror` needs {kind}, but got none."]
    if config["out"] is not None and len(words) > 1:
        return [f"`out` needs one address, but got {len(words)}."]
    return [
        f"`mirror` needs {kind}{' with `clean` or `out`' if wants_addresses else ''}, but got {word!r}."
        for word in words
        if is_remote_address(word) != wants_addresses
    ]


def _clean(words: Sequence[str], older_than_s: float, console: Console) -> None:
    for word in words:
        root = RemoteAddress.parse(word)
        for address, _ in find_manifests(ObjectStore(root.scheme), root):
            removed = remove_unnamed_objects(address, older_than_s=older_than_s)
            _print(console, f"{address}: {len(removed)} objects removed")


def _print(console: Console, text: str) -> None:
    console.print(Text(text), soft_wrap=True)
