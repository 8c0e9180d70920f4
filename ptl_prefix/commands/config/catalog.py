"""The groups of conf/, the choices of each group, and the metrics.

In: the folder of configs. Out: names, each with a summary: the first comment of a choice's YAML, or the first docstring
line of a metric's Python file. They are read from the files, so that listing them imports neither Hydra nor torch.
"""

import ast
import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptl_prefix import settings

CATALOGS = {
    "tasks": "task",
    "backbones": "backbone",
    "methods": "method",
    "experiments": "experiment",
    "sweeps": "sweeps",
}
"""The verbs that list the choices of one group."""

_LABEL = re.compile(r"# (Family|Licence): (.+)")
_MOST_NAMED = 20
"""Number of choices above which a sentence does not list them."""


@dataclass(frozen=True)
class Choice:
    """One choice of a group, which `<group>=<name>` selects; or one metric."""

    name: str
    summary: str


def group_names(config_dir: str | None = None) -> list[str]:
    """The groups without those of Hydra; a folder of the user's configs adds to the package's."""
    found = {path.name for folder in _folders(config_dir) for path in folder.iterdir() if path.is_dir()}
    return sorted((found | {settings.sweeps_dir().name}) - {"hydra"})


def choices(group: str, config_dir: str | None = None) -> list[Choice]:
    """The user's own choices of a group, then the package's, each alphabetically; empty without such a group."""
    ours, *own = (_files_of(folder) for folder in _folders_of(group, config_dir))
    paths = [path for paths in (*own, ours) for path in paths]
    files = {path.stem: path for path in reversed(paths)}
    # The user's own come first.
    return [Choice(name, _first_comment(files[name])) for name in dict.fromkeys(path.stem for path in paths)]


def is_choice(group: str, name: str, config_dir: str | None = None) -> bool:
    """Whether a group has this choice, which may lie in a folder inside the group's."""
    return any((folder / f"{name}.yaml").is_file() for folder in _folders_of(group, config_dir))


def hidden_choice(group: str, name: str, config_dir: str | None = None) -> Path | None:
    """The user's file with the name of one of the package's choices, and other content; `None` if there is none."""
    ours, *own = (
        [path for path in _files_of(folder) if path.stem == name] for folder in _folders_of(group, config_dir)
    )
    content = [path.read_bytes() for path in ours]
    return next((path for paths in own for path in paths if content and path.read_bytes() not in content), None)


def _files_of(folder: Path) -> list[Path]:
    """The YAML files of a folder in alphabetical order; none if a name that a user typed can be no folder's."""
    try:
        return sorted(folder.glob("*.yaml"))
    except (OSError, ValueError):
        return []


def offered(group: str, config_dir: str | None = None, *, separator: str = ", ") -> str:
    """The choices of a group as part of a sentence: their names, or the verb that lists them if they are many."""
    names = [choice.name for choice in choices(group, config_dir)]
    verb = next((verb for verb, listed in CATALOGS.items() if listed == group), None)
    if verb is not None and len(names) > _MOST_NAMED:
        return f"the {len(names)} choices that `ptl-prefix {verb}` lists"
    return separator.join(names) or "none yet"


def groups_of(config_name: str, config_dir: str | None = None) -> dict[str, str | None]:
    """The groups in the defaults list of a primary config, each with its default choice or `None`."""
    path = next((p for folder in _folders(config_dir) if (p := folder / f"{config_name}.yaml").is_file()), None)
    named = _defaults_in(_read(path))
    known = group_names(config_dir)
    return {group: choice for group, choice in named.items() if group in known}


def defaults_of(group: str, choice: str, config_dir: str | None = None) -> dict[str, Any]:
    """The entries in the defaults list of a choice's file, by their group."""
    return _defaults_in(_content(group, choice, config_dir))


def _defaults_in(content: Any) -> dict[str, Any]:
    """The entries of a defaults list by their group, without the words `optional` and `override`."""
    entries = content.get("defaults", []) if isinstance(content, Mapping) else []
    pairs = [pair for entry in entries if isinstance(entry, Mapping) for pair in entry.items()]
    return {str(key).split()[-1].lstrip("/"): choice for key, choice in pairs}


def settings_of(group: str, choice: str, config_dir: str | None = None) -> dict[str, Any]:
    """The keys and values in the file of a choice."""
    content = _content(group, choice, config_dir)
    return {key: value for key, value in content.items() if key not in ("_target_", "defaults")}


def target_of(group: str, choice: str, config_dir: str | None = None) -> str | None:
    """The `_target_` of a choice; `None` if its file has none."""
    return _content(group, choice, config_dir).get("_target_")


def labels_of(group: str, choice: str, config_dir: str | None = None) -> dict[str, str]:
    """The comments of a choice of the form `# Licence: MIT`, which stand above its settings, by their first words."""
    path = _path_of(group, choice, config_dir)
    lines = path.read_text(encoding="utf-8").splitlines() if path else []
    above = itertools.takewhile(lambda line: line.startswith("#"), lines)
    found = (_LABEL.fullmatch(line) for line in above)
    return {label[1]: label[2].strip() for label in found if label}


def _content(group: str, choice: str, config_dir: str | None) -> dict[str, Any]:
    return _read(_path_of(group, choice, config_dir)) or {}


def _read(path: Path | None) -> Any:
    """The content of a YAML file; `None` for no file."""
    # Imported here: the list of verbs reads no file.
    import yaml

    return yaml.safe_load(path.read_text(encoding="utf-8")) if path else None


def _path_of(group: str, choice: str, config_dir: str | None) -> Path | None:
    return next((p for folder in _folders_of(group, config_dir) if (p := folder / f"{choice}.yaml").is_file()), None)


def metrics() -> list[Choice]:
    """The metrics in alphabetical order."""
    folder = Path(__file__).parents[2] / "evaluation/metrics"
    files = {path.stem: path for path in folder.glob("*.py") if path.stem != "__init__"}
    return [Choice(name, _first_line(path)) for name, path in sorted(files.items())]


def listing(found: Iterable[Choice]) -> str:
    """Choices as text, one line each."""
    found = list(found)
    width = max((len(choice.name) for choice in found), default=0)
    return "\n".join(f"{choice.name:<{width}}  {choice.summary}".rstrip() for choice in found)


def _folders(config_dir: str | None) -> list[Path]:
    return [settings.conf_dir(), *([Path(config_dir)] if config_dir and Path(config_dir).is_dir() else [])]


def _folders_of(group: str, config_dir: str | None) -> list[Path]:
    """The folders of a group's choices. `sweeps/` lies beside `conf/`, not in it."""
    folders = [folder / group for folder in _folders(config_dir)]
    if group != settings.sweeps_dir().name:
        return folders
    working = settings.working_dir_of(group)
    return [settings.sweeps_dir(), *folders, *([working] if working is not None else [])]


def _first_line(path: Path) -> str:
    """The first line of a Python file's docstring, read without importing the file."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]


def _first_comment(path: Path) -> str:
    """The first comment line with text, except `# @package`, which is for Hydra."""
    comments = (line.lstrip("# ").rstrip() for line in path.read_text(encoding="utf-8").splitlines() if line[:1] == "#")
    return next((comment for comment in comments if comment and not comment.startswith("@package")), "")
