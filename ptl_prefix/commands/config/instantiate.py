"""The one place where a config becomes an object.

In: a node with `_target_` and plain values. Out: the object. Of what is nested, a mapping of nothing but nodes is
built. A target can only be a class of this package or Lightning's Trainer: a config is data, and must not become a way
to call anything that is importable.
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
"""Earlier addresses of classes, as configs of older runs and studies name them: those must open and resume."""


def import_target(path: str, where: str) -> type[Any]:
    """The class that `_target_` names.

    Args:
        path: Dotted path of a class.
        where: The node's name in the config, for the message.

    Raises:
        ValueError: When there is no such class, or it is not one that a config may build.
    """
    law = f"`{where}._target_` must name a class of ptl_prefix or be {TRAINER}"
    path = _MOVED.get(str(path), path)
    module_name, _, name = str(path).rpartition(".")
    if path != TRAINER and not module_name.startswith("ptl_prefix."):
        raise ValueError(f"{law}, but is {path!r}.")
    try:
        target = getattr(importlib.import_module(module_name), name)
    except ModuleNotFoundError as error:
        # A library that is missing says so itself; only our own module can be misspelt here.
        if not (error.name or "").startswith("ptl_prefix"):
            raise
        raise ValueError(f"{law}, but there is no module {error.name!r} for {path!r}.") from error
    except AttributeError as error:
        raise ValueError(f"{law}, but {module_name} has no {name!r}.") from error
    if not inspect.isclass(target) or (path != TRAINER and not target.__module__.startswith("ptl_prefix.")):
        raise ValueError(f"{law}, but {path!r} is none.")
    return target


def target_values(node: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments that a node holds."""
    return {key: value for key, value in node.items() if key != "_target_"}


def is_node(value: Any) -> bool:
    """Whether a value of a config describes an object."""
    return isinstance(value, Mapping) and "_target_" in value


def parts_of(node: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The keyword arguments of a node that are mappings of nodes: objects by their names."""
    mappings = {key: value for key, value in target_values(node).items() if isinstance(value, Mapping)}
    return {key: value for key, value in mappings.items() if value and all(map(is_node, value.values()))}


def build(node: Mapping[str, Any], **more: Any) -> Any:
    """The object that a node describes.

    Args:
        node: `_target_` and the keyword arguments of its constructor, as plain values.
        more: Keyword arguments that no config can hold, such as the Trainer's callbacks.
    """
    values = target_values(node)
    values |= {key: {name: build(part) for name, part in parts.items()} for key, parts in parts_of(node).items()}
    return import_target(node["_target_"], where="config")(**values, **more)
