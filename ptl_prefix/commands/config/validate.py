"""Every mistake in a composed config, before any weights load.

In: a verb and its config as plain values, interpolations resolved, missing values left out. Out: sentences. A node
with `_target_` is checked against the annotations of that class, then built, as constructors of this package load
nothing, and asked for its `problems()`: files that are missing, for instance. What is not a node belongs to the verb.
"""

import importlib
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ptl_prefix.artifacts.run_folder import RunFolder, is_name
from ptl_prefix.commands.config import catalog
from ptl_prefix.commands.config.instantiate import TRAINER, build, import_target, is_node, parts_of, target_values
from ptl_prefix.commands.config.verb import Verb
from ptl_prefix.errors import PtlPrefixError, RunError
from ptl_prefix.settings import mistakes_in

_NAME_LAW = "must be a folder's name of the characters A-Z a-z 0-9 . _ -"


def mistakes_of(
    verb: Verb, config: Mapping[str, Any], groups: Mapping[str, str | None], doubtful: Collection[str] = ()
) -> list[str]:
    """Every way in which the config cannot run.

    Args:
        verb: Whose config it is.
        config: The composed config, without Hydra's own node.
        groups: The groups of that config, with the choice it makes by default.
        doubtful: Groups whose choice was refused: what is in their place was not asked for, so it is not checked.
    """
    nodes = {key: value for key, value in config.items() if is_node(value)}
    mistakes = [
        f"`{group}` must be one of {catalog.offered(group)}, but is {_spoken(config.get(group))}."
        for group, choice in groups.items()
        if choice is not None and group not in nodes and group not in doubtful
    ]
    found = {key: node_mistakes(key, node) for key, node in nodes.items() if key not in doubtful}
    mistakes += [mistake for of_node in found.values() for mistake in of_node]
    mistakes += _cross_mistakes(verb, config, sound={key for key, of_node in found.items() if not of_node})
    root = {key: value for key, value in config.items() if key not in nodes and key not in groups}
    return mistakes + _own_mistakes(verb, root) + _name_mistakes(config, doubtful)


def _cross_mistakes(verb: Verb, config: Mapping[str, Any], sound: Collection[str]) -> list[str]:
    """What the verb's own body finds in the nodes that are `sound` by themselves, side by side."""
    check = getattr(importlib.import_module(verb.module), "cross_mistakes", None)
    return [] if check is None else list(check(config, sound))


def _spoken(value: Any) -> str:
    return "null" if value is None else repr(value)


def node_mistakes(where: str, node: Mapping[str, Any]) -> list[str]:
    """What is wrong with one `_target_` node, named `where`."""
    try:
        target: Callable[..., Any] = import_target(node["_target_"], where)
    except ValueError as error:
        return [str(error)]
    values = target_values(node)
    mistakes = [
        mistake
        for key, parts in parts_of(node).items()
        for name, part in parts.items()
        for mistake in node_mistakes(f"{where}.{key}.{name}", part)
    ]
    mistakes += mistakes_in(target, values, where)
    # Lightning's Trainer starts up its accelerator when built: it is only compared with its signature.
    if mistakes or node["_target_"] == TRAINER:
        return mistakes
    return _problems(partial(build, node), where)


def _own_mistakes(verb: Verb, root: Mapping[str, Any]) -> list[str]:
    # The settings of a verb have no group before their name, and the user knows the verb, not its class.
    found = mistakes_in(verb.settings, root, where="")
    mistakes = [mistake.replace("`.", "`", 1).replace(verb.settings.__name__, f"`{verb.name}`", 1) for mistake in found]
    if not mistakes and verb.folder_key and root[verb.folder_key] is not None:
        try:
            RunFolder.open(root[verb.folder_key])
        except RunError as error:
            return [f"`{verb.folder_key}`: {error}"]
    return mistakes or _problems(lambda: verb.settings(**root), verb.name)


def _problems(make: Callable[[], Any], where: str) -> list[str]:
    """What only the object itself can tell."""
    try:
        built = make()
    except (ValueError, PtlPrefixError) as error:
        return [f"`{where}`: {error}"]
    problems = getattr(built, "problems", None)
    return list(problems()) if callable(problems) else []


def folder_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """The names that the run's folder is made of, by their key."""
    names = {f"{key}.name": value["name"] for key, value in config.items() if is_node(value) and "name" in value}
    return {"run_id": config.get("run_id"), **names}


def _name_mistakes(config: Mapping[str, Any], doubtful: Collection[str]) -> list[str]:
    return [
        f"`{key}` {_NAME_LAW}, but is {name!r}."
        for key, name in folder_names(config).items()
        if isinstance(name, str) and not is_name(name) and key.partition(".")[0] not in doubtful
    ]


def folder_mistakes(key: str, folder: str, already_checked: Collection[Any] = ()) -> list[str]:
    """What is wrong with a folder that a run would make. Folders that exist already are named as their owner likes."""
    path = Path(folder)
    absent = [part.name for part in (path, *path.parents) if not part.exists()]
    wrong = [name for name in reversed(absent) if not is_name(name) and name not in already_checked]
    return [f"each new folder in `{key}` {_NAME_LAW}, but one is {name!r}." for name in wrong]
