"""Writes settings given from Python as the overrides of a command line.

In: keyword arguments: words of the command line, numbers, lists, or objects of this package. Out: overrides for Hydra.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from os import PathLike
from typing import Any

from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.commands.config import catalog
from ptl_prefix.commands.config.arguments import quoted
from ptl_prefix.commands.config.instantiate import import_target
from ptl_prefix.errors import ConfigError
from ptl_prefix.methods.method import Method
from ptl_prefix.settings import given_settings

_PLAIN_WORD = re.compile(r"[A-Za-z_][\w./-]*", re.ASCII)
_OTHER_THAN_TEXT = {"null", "true", "false", "inf", "nan"}
"""Words that Hydra's grammar reads as something else than a text."""


def as_overrides(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The overrides of settings.

    Args:
        settings: Values by the names of the command line. A mapping sets the keys of its group; an object of this
            package chooses its config and sets what its constructor was given.

    Raises:
        ConfigError: With every value that has no form on the command line.
    """
    overrides: list[str] = []
    problems: list[str] = []
    for key, value in settings.items():
        try:
            overrides += _overrides(key, value)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError(problems)
    return tuple(overrides)


def _overrides(key: str, value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _overrides(f"{key}.{name}", part)
    elif isinstance(value, Decoding):
        yield from _overrides(key, dataclasses.asdict(value))
    elif (given := given_settings(value)) is not None:
        group, _, choice = given.config.partition("/")
        _check_object(key, value, group, choice)
        yield f"{key}={choice}"
        yield from _overrides(key, given.values)
    else:
        yield f"{key}={_as_text(value, key)}"


def _check_object(key: str, value: Any, group: str, choice: str) -> None:
    """Refuse an object that its config would not build again, such as one of a subclass.

    Raises:
        ValueError: It is of another group or class, or already trained.
    """
    name = type(value).__name__
    if group != key:
        raise ValueError(f"`{key}` must be an object of its group, but is a {name} of `{group}`.")
    if import_target(str(catalog.target_of(group, choice)), key) is not type(value):
        raise ValueError(
            f"`{key}` must be an object whose class a config can name, but {name} is not one of ptl_prefix's; write "
            f"a choice of `{group}=` and its settings instead."
        )
    if isinstance(value, Method) and (value.is_attached or next(value.parameters(), None) is not None):
        raise ValueError(f"`{key}` must be a method that was never attached, as a run starts it anew.")


def _as_text(value: Any, key: str) -> str:
    """A value in Hydra's grammar."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | PathLike):
        text = str(value)
        is_word = _PLAIN_WORD.fullmatch(text) and text.lower() not in _OTHER_THAN_TEXT
        return text if is_word else quoted(text)
    if isinstance(value, list | tuple):
        return f"[{','.join(_as_text(part, key) for part in value)}]"
    raise ValueError(
        f"`{key}` must be a text, a number, a list, a mapping, None, or an object of ptl_prefix, but is a "
        f"{type(value).__name__}."
    )
