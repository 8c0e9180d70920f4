"""What there is to choose from: the groups of conf/ and the choices in each.

In: the folder of configs. Out: names and one line about each, read from the files alone, so that listing them imports
neither Hydra nor torch. The line is the first comment of the YAML. Metrics have no YAML: theirs is the first line of
the Python file.
"""

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ptl_prefix import settings

CATALOGS = {
    "tasks": "task",
    "backbones": "backbone",
    "methods": "method",
    "experiments": "experiment",
    "sweeps": "sweeps",
}
"""The verbs that list the choices of one group."""

_MOST_NAMED = 20
"""More choices than these are a wall of words in a sentence."""


@dataclass(frozen=True)
class Choice:
    """One file of a group, which `<group>=<name>` selects; or one metric."""

    name: str
    summary: str


def group_names(config_dir: str | None = None) -> list[str]:
    """The groups, Hydra's own settings left out. A folder of the user's adds to the package's."""
    found = {path.name for folder in _folders(config_dir) for path in folder.iterdir() if path.is_dir()}
    return sorted((found | {settings.sweeps_dir().name}) - {"hydra"})


def choices(group: str, config_dir: str | None = None) -> list[Choice]:
    """The choices of a group in alphabetical order; empty when there is no such group."""
    files = {path.stem: path for folder in _folders_of(group, config_dir) for path in folder.glob("*.yaml")}
    return [Choice(name, _first_comment(path)) for name, path in sorted(files.items())]


def offered(group: str, config_dir: str | None = None, *, separator: str = ", ") -> str:
    """What a group may be, as part of a sentence: the names, or the verb that lists them when they are many."""
    names = [choice.name for choice in choices(group, config_dir)]
    verb = next((verb for verb, listed in CATALOGS.items() if listed == group), None)
    if verb is not None and len(names) > _MOST_NAMED:
        return f"the {len(names)} that `ptl-prefix {verb}` lists"
    return separator.join(names) or "none yet"


def groups_of(config_name: str, config_dir: str | None = None) -> dict[str, str | None]:
    """The groups in the defaults list of a primary config, with the choice it makes; `None` makes none."""
    path = next((p for folder in _folders(config_dir) if (p := folder / f"{config_name}.yaml").is_file()), None)
    content = yaml.safe_load(path.read_text(encoding="utf-8")) if path else None
    entries = content.get("defaults", []) if isinstance(content, Mapping) else []
    named = {key: choice for entry in entries if isinstance(entry, Mapping) for key, choice in entry.items()}
    known = group_names(config_dir)
    return {key.removeprefix("optional "): choice for key, choice in named.items() if key.split()[-1] in known}


def settings_of(group: str, choice: str, config_dir: str | None = None) -> dict[str, Any]:
    """The keys of one choice, as its file states them."""
    content = _content(group, choice, config_dir)
    return {key: value for key, value in content.items() if key not in ("_target_", "defaults")}


def target_of(group: str, choice: str, config_dir: str | None = None) -> str | None:
    """What one choice builds; `None` if its file does not say."""
    return _content(group, choice, config_dir).get("_target_")


def _content(group: str, choice: str, config_dir: str | None) -> dict[str, Any]:
    path = next((p for folder in _folders_of(group, config_dir) if (p := folder / f"{choice}.yaml").is_file()), None)
    return (yaml.safe_load(path.read_text(encoding="utf-8")) if path else None) or {}


def metrics() -> list[Choice]:
    """The metrics in alphabetical order, each with the first line of its file."""
    folder = Path(__file__).parents[2] / "evaluation/metrics"
    files = {path.stem: path for path in folder.glob("*.py") if path.stem != "__init__"}
    return [Choice(name, _first_line(path)) for name, path in sorted(files.items())]


def listing(found: Iterable[Choice]) -> str:
    """Choices, one line each."""
    found = list(found)
    width = max((len(choice.name) for choice in found), default=0)
    return "\n".join(f"{choice.name:<{width}}  {choice.summary}".rstrip() for choice in found)


def _folders(config_dir: str | None) -> list[Path]:
    return [settings.conf_dir(), *([Path(config_dir)] if config_dir and Path(config_dir).is_dir() else [])]


def _folders_of(group: str, config_dir: str | None) -> list[Path]:
    """Where a group's choices are. Sweeps stand beside the configs, not among them."""
    shipped = [settings.sweeps_dir()] if group == settings.sweeps_dir().name else []
    return [*shipped, *(folder / group for folder in _folders(config_dir))]


def _first_line(path: Path) -> str:
    """The first line of a Python file's docstring, read without importing the file."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]


def _first_comment(path: Path) -> str:
    """The first comment line that says something; `# @package` speaks to Hydra."""
    comments = (line.lstrip("# ").rstrip() for line in path.read_text(encoding="utf-8").splitlines() if line[:1] == "#")
    return next((comment for comment in comments if comment and not comment.startswith("@package")), "")
