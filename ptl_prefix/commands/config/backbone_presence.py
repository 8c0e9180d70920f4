"""What `ptl-prefix backbones` says of each choice: whether it is on this machine, its size, family and licence.

In: the folder of the user's configs. Out: text. It is read from YAML files, file names and the metadata of installed
packages, so that listing backbones imports neither torch nor transformers.
"""

import textwrap
from collections.abc import Iterator
from pathlib import Path

from ptl_prefix.backbones.hub_cache import cached_snapshot
from ptl_prefix.backbones.package_file import is_package_path, package_parts
from ptl_prefix.commands.config import catalog
from ptl_prefix.errors import BackboneError

_GROUP = "backbone"
_WIDTH = 100
_EMBEDDED = Path(__file__).parents[2] / "backbones" / "embedded"
_DEQUANTISED = "fingerprint of the dequantised weights"


def backbone_listing(config_dir: str | None) -> str:
    """The backbones as text: for each its name and summary, then what is known of it on indented lines."""
    found = catalog.choices(_GROUP, config_dir)
    width = max(len(choice.name) for choice in found) + 2
    lines = []
    for choice in found:
        lines.append(_wrapped(choice.summary, first=choice.name.ljust(width), width=width))
        labels = catalog.labels_of(_GROUP, choice.name, config_dir)
        facts = [_presence(choice.name, config_dir), *(f"{key.lower()}: {value}" for key, value in labels.items())]
        lines.append(_wrapped("; ".join(facts), first=" " * width, width=width))
    return "\n".join(lines)


def _wrapped(text: str, *, first: str, width: int) -> str:
    """Text in lines of 100 columns, the first of which starts with `first` and the others with `width` spaces."""
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=first,
        subsequent_indent=" " * width,
        break_on_hyphens=False,
        break_long_words=False,
    )


def _presence(name: str, config_dir: str | None) -> str:
    """Whether a choice is on this machine, and what to do if it is not."""
    path = catalog.settings_of(_GROUP, name, config_dir).get("path")
    if path is None:
        return "needs no weights: a shape for dry_run=true"
    if not isinstance(path, str) or path == "???":
        return "needs `backbone.path`"
    if is_package_path(path):
        try:
            return f"present: {_size(package_parts(path))} in an installed package, {_DEQUANTISED}"
        except BackboneError as error:
            return f"not present: {str(error).partition(', but ')[2].rstrip('.')}"
    if "/" not in path and (_EMBEDDED / path).is_dir():
        return f"present: {_size(_files_in(_EMBEDDED / path))}, embedded"
    if (local := Path(path).expanduser()).exists():
        return f"present: {_size(_files_in(local))} at {path}"
    if (snapshot := cached_snapshot(path)) is not None:
        return f"present: {_size(_files_in(snapshot))} in the hub's cache"
    return f"not present: {path} is downloaded when it is first used"


def _files_in(path: Path) -> Iterator[Path]:
    return (file for file in path.rglob("*") if file.is_file()) if path.is_dir() else iter((path,))


def _size(files: Iterator[Path] | tuple[Path, ...]) -> str:
    return f"{sum(file.stat().st_size for file in files) / 1e6:,.0f} MB"
