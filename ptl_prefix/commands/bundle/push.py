"""`ptl-prefix push`: uploads a bundle to the Hugging Face hub."""

from pathlib import Path
from typing import Any

from rich.text import Text

from ptl_prefix.artifacts.bundle import read_bundle
from ptl_prefix.artifacts.bundle_folder import find_bundle
from ptl_prefix.artifacts.hub_address import HubAddress
from ptl_prefix.artifacts.hub_bundle import push_bundle
from ptl_prefix.artifacts.manifest import require_plain_file
from ptl_prefix.artifacts.model_card import CARD_FILE, card_text
from ptl_prefix.commands.bundle.card import facts_to_push
from ptl_prefix.errors import BundleError, ConfigError
from ptl_prefix.training.console import EscapingConsole


def run(config: dict[str, Any], words: tuple[str, ...], run_folder: Path) -> None:
    """Upload one bundle.

    Args:
        config: `bundle`, `repo`, `private` and `revision`.
        words: Must be empty.
        run_folder: Not used, because an upload is not a run.
    """
    if words:
        raise ConfigError([f"`push` takes no arguments, but got {' '.join(words)!r}; set bundle=<folder> repo=<name>."])
    folder = find_bundle(config["bundle"])
    bundle = read_bundle(folder)  # what is not a whole bundle is refused before anything is sent
    card = _own_card(folder) or card_text(facts_to_push(folder, bundle.manifest))
    address = HubAddress(config["repo"], config["revision"])
    commit = push_bundle(folder, bundle.manifest, card, address, private=config["private"])
    console = EscapingConsole()
    for name, value in {
        "repo": commit.repo_url,
        "commit": commit.commit,
        "bundle": address.at(commit.commit),
    }.items():
        console.print(Text(f"{name + ':':8}{value}"), soft_wrap=True)


def _own_card(folder: Path) -> str | None:
    """The card that lies beside the bundle, as the user may have edited it; `None` if there is none."""
    path = folder / CARD_FILE
    if not path.exists():
        return None
    try:
        require_plain_file(path)
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise BundleError(
            f"A bundle's {CARD_FILE} must be a plain UTF-8 file, but {path} is not ({error}); correct or remove it."
        ) from error
