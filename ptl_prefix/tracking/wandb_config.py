"""Flattens a resolved config, so that W&B can group and filter runs by its settings.

In: a config. Out: the names of `method`, `backbone` and `task`, scalars such as `seed`, every setting as `group/key`,
and the method's settings also by their bare names, such as `prefix_length`. Values that are known only when a run
starts, such as the number of trainable parameters, arrive as events and are added.
"""

from collections.abc import Mapping
from typing import Any

from ptl_prefix.artifacts.config_tree import leaves
from ptl_prefix.tracking.numbers import numeric_values

_NOT_OF_THE_RUN = ("tracking", "dry_run", "resume", "resume_anyway")


def flat_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten a config to names and values."""
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
    """The learning rate that training uses: the optimizer's, or the method's default if that is null."""
    method, optimizer = config.get("method"), config.get("optimizer")
    if not isinstance(method, Mapping) or not isinstance(optimizer, Mapping):
        return {}
    chosen = optimizer.get("lr")
    return {"learning_rate": method.get("default_lr") if chosen is None else chosen}


def _settings(node: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a node by their path, without the classes of its parts."""
    found = leaves(node, separator="/")
    return {path: value for path, value in found if path.split("/")[-1] != "_target_" and value != {}}


def config_updates(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of an event that belong to W&B's config; empty for most kinds of events."""
    if kind in ("attached", "resumed"):
        return dict(numeric_values(values))
    if kind == "encoded":
        return {f"encoded/{values.get('split')}/{name}": value for name, value in numeric_values(values).items()}
    if kind == "begun":
        # W&B would log the git state of the working directory instead.
        environment = values.get("environment", {})
        git = {f"git_{name}": value for name, value in (environment.get("git") or {}).items()}
        return {"package_version": environment.get("package_version"), **git}
    return {}
