"""Builds objects from nodes of a config.

In: a node with `_target_` and plain values. Out: the object. A nested mapping is built if all its values are nodes. A
target is a class of this package or Lightning's Trainer: a config must not be able to call everything importable.
"""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

TRAINER = "pytorch_lightning.Trainer"
"""The only target outside the package."""

_MOVED = {
    "ptl_prefix.backbones.outline.LlamaOutline": "ptl_prefix.backbones.shape.LlamaSpec",
    "ptl_prefix.data.batches.BatchSettings": "ptl_prefix.data.settings.DataSettings",
}
"""Former paths of classes, which configs of older runs and studies have: these must still open and resume."""


def import_target(path: str, where: str) -> type[Any]:
    """The class that `_target_` names.

    Args:
        path: Dotted path of a class.
        where: Name of the node in messages.

    Raises:
        ValueError: If there is no such class, or a config must not build it.
    """
    law = f"`{where}._target_` must name a class of ptl_prefix or be {TRAINER}"
    path = _MOVED.get(str(path), path)
    module_name, _, name = str(path).rpartition(".")
    if path != TRAINER and not module_name.startswith("ptl_prefix."):
        raise ValueError(f"{law}, but is {path!r}.")
    try:
        target = getattr(importlib.import_module(module_name), name)
    except ModuleNotFoundError as error:
        # A missing library raises its own error; only a module of ours can be misspelt here.
        if not (error.name or "").startswith("ptl_prefix"):
            raise
        raise ValueError(f"{law}, but there is no module {error.name!r} for {path!r}.") from error
    except AttributeError as error:
        raise ValueError(f"{law}, but {module_name} has no {name!r}.") from error
    if not inspect.isclass(target) or (path != TRAINER and not target.__module__.startswith("ptl_prefix.")):
        raise ValueError(f"{law}, but {path!r} is not.")
    return target


def target_values(node: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of a node."""
    return {key: value for key, value in node.items() if key != "_target_"}


def is_node(value: Any) -> bool:
    """Whether a value of a config describes an object."""
    return isinstance(value, Mapping) and "_target_" in value


def parts_of(node: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The keyword arguments of a node that are mappings of nodes."""
    mappings = {key: value for key, value in target_values(node).items() if isinstance(value, Mapping)}
    return {key: value for key, value in mappings.items() if value and all(map(is_node, value.values()))}


def build(node: Mapping[str, Any], **more: Any) -> Any:
    """The object that a node describes.

    Args:
        node: `_target_` and the keyword arguments of its constructor, as plain values.
        more: Keyword arguments that a config cannot hold.
    """
    values = target_values(node)
    values |= {key: {name: build(part) for name, part in parts.items()} for key, parts in parts_of(node).items()}
    return import_target(node["_target_"], where="config")(**values, **more)
