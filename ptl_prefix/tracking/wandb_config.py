"""A resolved config becomes one flat list of names, as W&B groups and filters runs by them.

In: groups with their settings. Out: `method`, `backbone`, `task`, `seed` and the like as words, every setting as
`group/key`, and the method's own by their bare names: one groups by `prefix_length`, not by where it stands. What a
run learns of itself when it begins, such as how many parameters it trains, comes as events and is added.
"""

from collections.abc import Mapping
from typing import Any

from ptl_prefix.artifacts.config_tree import leaves
from ptl_prefix.tracking.numbers import numbers_in

_NOT_OF_THE_RUN = ("tracking", "dry_run", "resume")


def flat_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The names and values of a config."""
    flat: dict[str, Any] = {}
    for group, node in config.items():
        if group in _NOT_OF_THE_RUN:
            continue
        if not isinstance(node, Mapping):
            flat[group] = node
            continue
        if "name" in node:
            flat[group] = node["name"]
        flat.update({f"{group}/{path}": value for path, value in _settings(node).items()})
    method = config.get("method")
    own = _settings(method) if isinstance(method, Mapping) else {}
    return {**{name: value for name, value in own.items() if name != "name"}, **_learning_rate(config), **flat}


def _learning_rate(config: Mapping[str, Any]) -> dict[str, Any]:
    """The one that training uses: the optimizer's, or the method's own where that leaves it open."""
    method, optimizer = config.get("method"), config.get("optimizer")
    if not isinstance(method, Mapping) or not isinstance(optimizer, Mapping):
        return {}
    chosen = optimizer.get("lr")
    return {"learning_rate": method.get("default_lr") if chosen is None else chosen}


def _settings(node: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a node by their path, without the classes of its parts."""
    found = leaves(node, separator="/")
    return {path: value for path, value in found if path.split("/")[-1] != "_target_" and value != {}}


def settings_told(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """What an event says of what the run is; nothing, if it is of another kind."""
    if kind in ("attached", "resumed"):
        return dict(numbers_in(values))
    if kind == "encoded":
        return {f"encoded/{values.get('split')}/{name}": value for name, value in numbers_in(values).items()}
    if kind == "begun":
        # W&B's own git state is that of the working directory.
        environment = values.get("environment", {})
        git = {f"git_{name}": value for name, value in (environment.get("git") or {}).items()}
        return {"package_version": environment.get("package_version"), **git}
    return {}
