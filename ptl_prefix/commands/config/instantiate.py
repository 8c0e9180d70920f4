"""Builds objects from nodes of a config.

In: a node with `_target_` and plain values. Out: the object. A nested mapping is built if all its values are nodes. A
target is a class of this package or Lightning's Trainer: a config must not be able to call everything importable.
"""

import ast
import importlib
import importlib.util
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TRAINER = "pytorch_lightning.Trainer"
"""The only target outside the package."""

_TRAINER_SOURCE = f"{TRAINER.rpartition('.')[0]}.trainer.trainer.Trainer"
"""The module that defines the class, which the library's own `__init__` imports."""

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


def written_arguments(path: str) -> list[str] | None:
    """The arguments of a target's constructor, read from its source, as importing a class takes seconds.

    Args:
        path: Dotted path of a class.

    Returns:
        `None` if the class may not be built, or its source does not show them: then only its signature has them.
    """
    package, *modules, name = (_TRAINER_SOURCE if path == TRAINER else path).split(".")
    spec = importlib.util.find_spec(package) if package in ("ptl_prefix", _TRAINER_SOURCE.split(".")[0]) else None
    if spec is None or spec.origin is None or not modules:
        return None
    file = Path(spec.origin).parent.joinpath(*modules).with_suffix(".py")
    if not file.is_file():
        return None
    nodes = ast.parse(file.read_text(encoding="utf-8")).body
    found = next((node for node in nodes if isinstance(node, ast.ClassDef) and node.name == name), None)
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    imported = {alias.name: f"{node.module}.{alias.name}" for node in imports for alias in node.names}
    return None if found is None else _arguments_in(found, imported)


def _arguments_in(source: ast.ClassDef, imported: Mapping[str, str]) -> list[str] | None:
    """The arguments of a class: its own, and those of its base if it hands them on.

    Args:
        source: Source of the class.
        imported: Dotted path of each name that its module imports.
    """
    if any("dataclass" in ast.unparse(decorator) for decorator in source.decorator_list):
        fields = [part.target for part in source.body if isinstance(part, ast.AnnAssign)]
        return None if source.bases else [field.id for field in fields if isinstance(field, ast.Name)]
    own: list[str] = []
    decided: set[str] = set()
    for part in source.body:
        if isinstance(part, ast.FunctionDef) and part.name == "__init__":
            decided = _without(part)
            own = [argument.arg for argument in (*part.args.args[1:], *part.args.kwonlyargs)]
            if part.args.kwarg is None:
                return own
    bases = [imported.get(ast.unparse(base)) for base in source.bases]
    inherited = written_arguments(bases[0]) if len(bases) == 1 and bases[0] is not None else None
    return (
        None if inherited is None else list(dict.fromkeys([*own, *(name for name in inherited if name not in decided)]))
    )


def _without(init: ast.FunctionDef) -> set[str]:
    """The arguments of its base that a constructor decides itself: `without` of its `with_settings_of`."""
    calls = (decorator for decorator in init.decorator_list if isinstance(decorator, ast.Call))
    keywords = (keyword for call in calls for keyword in call.keywords if keyword.arg == "without")
    return {name for keyword in keywords for name in ast.literal_eval(keyword.value)}


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
