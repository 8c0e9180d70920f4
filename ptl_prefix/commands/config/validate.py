"""Every problem of a composed config, found before any weights load.

In: a verb and its config as plain values, interpolations resolved, missing values left out. Out: one sentence for each
problem. A node with `_target_` is checked against the annotations of that class and then built, once, as constructors
of this package load nothing; the object is asked for its `problems()`, such as missing files. The keys at the root
belong to the verb.
"""

import importlib
import inspect
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from ptl_prefix.artifacts.remote.address import is_remote_address
from ptl_prefix.artifacts.remote.open_run import folder_to_continue
from ptl_prefix.artifacts.run_folder import RunFolder, is_name
from ptl_prefix.commands.config import catalog
from ptl_prefix.commands.config.instantiate import TRAINER, import_target, is_node, parts_of, target_values
from ptl_prefix.commands.config.verb import Verb
from ptl_prefix.errors import ObjectStoreError, PtlPrefixError, RunError
from ptl_prefix.settings import argument_problems

_NAME_LAW = "must be a folder's name of the characters A-Z a-z 0-9 . _ -"


def config_problems(
    verb: Verb, config: Mapping[str, Any], groups: Mapping[str, str | None], refused_groups: Collection[str] = ()
) -> list[str]:
    """Every reason why a config cannot run.

    Args:
        verb: Verb that the config belongs to.
        config: Composed config, without Hydra's own node.
        groups: Groups of the config, each with its default choice.
        refused_groups: Groups that are not checked, as an override was refused and their defaults were not asked
            for; what the verb finds in all nodes together is then not checked either.
    """
    nodes = {key: value for key, value in config.items() if is_node(value)}
    problems = [
        f"`{group}` must be one of {catalog.offered(group)}, but is {_format(config.get(group))}."
        for group, choice in groups.items()
        if choice is not None and group not in nodes and group not in refused_groups
    ]
    checked = {key: _check_node(key, node) for key, node in nodes.items() if key not in refused_groups}
    problems += [problem for _, found in checked.values() for problem in found]
    built = {key: made for key, (made, found) in checked.items() if not found}
    if not refused_groups:
        problems += _cross_problems(verb, config, built)
    root = {key: value for key, value in config.items() if key not in nodes and key not in groups}
    return problems + _root_problems(verb, root) + _name_problems(config, refused_groups)


def _cross_problems(verb: Verb, config: Mapping[str, Any], built: Mapping[str, Any]) -> list[str]:
    """Problems that the verb finds in the built nodes together."""
    check = getattr(importlib.import_module(verb.module), "cross_problems", None)
    return [] if check is None else list(check(config, built))


def _format(value: Any) -> str:
    return "null" if value is None else repr(value)


def node_problems(where: str, node: Mapping[str, Any]) -> list[str]:
    """The problems of one node with `_target_`, which the sentences call `where`."""
    return _check_node(where, node)[1]


def _check_node(where: str, node: Mapping[str, Any]) -> tuple[Any, list[str]]:
    """The object that a node describes, or `None` and the node's problems; what is nested in it likewise."""
    try:
        target: Callable[..., Any] = import_target(node["_target_"], where)
    except ValueError as error:
        return None, [str(error)]
    values = target_values(node)
    parts = {
        key: {name: _check_node(f"{where}.{key}.{name}", part) for name, part in of_key.items()}
        for key, of_key in parts_of(node).items()
    }
    problems = [problem for of_key in parts.values() for _, found in of_key.values() for problem in found]
    problems += argument_problems(target, values, where)
    if problems:
        return None, problems
    if node["_target_"] == TRAINER:
        # Lightning's Trainer starts its accelerator when built: its arguments are only compared with its signature.
        return values, []
    try:
        built = target(
            **values | {key: {name: part for name, (part, _) in of_key.items()} for key, of_key in parts.items()}
        )
    except (ValueError, PtlPrefixError) as error:
        return None, [f"`{where}`: {error}"]
    problems = _own_problems(built)
    return None if problems else built, problems


def _root_problems(verb: Verb, root: Mapping[str, Any]) -> list[str]:
    # The settings of a verb have no group before their name, and the user knows the verb, not its class.
    found = argument_problems(verb.settings, root, where="")
    problems = [problem.replace("`.", "`", 1).replace(verb.settings.__name__, f"`{verb.name}`", 1) for problem in found]
    if problems:
        return problems
    if verb.folder_key and root[verb.folder_key] is not None:
        try:
            folder = folder_to_continue(root[verb.folder_key])
            if not is_remote_address(root[verb.folder_key]):
                RunFolder.open(folder)
        except (ObjectStoreError, RunError) as error:
            return [f"`{verb.folder_key}`: {error}"]
    try:
        return _own_problems(verb.settings(**root))
    except (ValueError, PtlPrefixError) as error:
        return [f"`{verb.name}`: {error}"]


def _own_problems(made: Any) -> list[str]:
    """The problems that an object finds in its own settings.

    The `problems` of a method take a backbone: they are asked for together with the backbone's.
    """
    problems = getattr(made, "problems", None)
    return list(problems()) if callable(problems) and not inspect.signature(problems).parameters else []


def folder_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """The names that the run's folder is made of, by their key."""
    names = {f"{key}.name": value["name"] for key, value in config.items() if is_node(value) and "name" in value}
    return {"run_id": config.get("run_id"), **names}


def _name_problems(config: Mapping[str, Any], refused_groups: Collection[str]) -> list[str]:
    return [
        f"`{key}` {_NAME_LAW}, but is {name!r}."
        for key, name in folder_names(config).items()
        if isinstance(name, str) and not is_name(name) and key.partition(".")[0] not in refused_groups
    ]


def folder_problems(key: str, folder: str, already_checked: Collection[Any] = ()) -> list[str]:
    """What is wrong with a folder that a run would make. Folders that exist already are named as their owner likes."""
    path = Path(folder)
    absent = [part.name for part in (path, *path.parents) if not part.exists()]
    wrong = [name for name in reversed(absent) if not is_name(name) and name not in already_checked]
    return [f"each new folder in `{key}` {_NAME_LAW}, but one is {name!r}." for name in wrong]
