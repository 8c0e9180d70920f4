"""Walks over the values of a config.

In: a config as plain values. Out: its values with their paths, such as `method.prefix_length`.
"""

from collections.abc import Iterator, Mapping
from typing import Any


def walk(
    node: Mapping[str, Any] | list[Any], *, separator: str = ".", into_lists: bool = False
) -> Iterator[tuple[str, Any]]:
    """Every value below a node with its path; a mapping comes before what it holds.

    Args:
        node: Mapping, or list, with others inside.
        separator: Text between the keys of a path.
        into_lists: Whether the items of lists are values, too; an item's index takes the place of a key.
    """
    for key, value in node.items() if isinstance(node, Mapping) else enumerate(node):
        yield str(key), value
        if isinstance(value, Mapping) or (into_lists and isinstance(value, list)):
            for path, inner in walk(value, separator=separator, into_lists=into_lists):
                yield f"{key}{separator}{path}", inner


def leaves(node: Mapping[str, Any], *, separator: str = ".") -> Iterator[tuple[str, Any]]:
    """The values of a config without the mappings that hold others; an empty mapping and a list are one value each."""
    for path, value in walk(node, separator=separator):
        if not isinstance(value, Mapping) or not value:
            yield path, value
