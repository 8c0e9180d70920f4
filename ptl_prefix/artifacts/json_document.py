"""Strict JSON for dataclasses: everything that is written can be read back unchanged.

In: a dataclass, or the bytes of a file. Out: text, or the dataclass; else `DocumentError`, whose message the caller
puts into its own. Non-finite numbers, repeated, unknown and missing keys, wrong types, and another `schema_version` are
refused.

A dataclass that is stored so carries `__pydantic_config__ = STRICT`, which its fields inherit. A field whose key in
the file differs from its name is annotated with pydantic's `Field(alias=...)`.
"""

import dataclasses
import functools
import hashlib
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from ptl_prefix.artifacts.file_lock import read_unlinked

Document = TypeVar("Document")

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class DocumentError(ValueError):
    """A document cannot be stored or read; the message is the end of a sentence about it."""


def to_values(document: Any) -> dict[str, Any]:
    """Turn a dataclass into a JSON object, and check that it can be read back.

    Raises:
        DocumentError: JSON or the dataclass's types do not allow a value; the message names the first one.
    """
    keys = _keys_of(type(document))  # type: ignore[arg-type]  # classes are hashable
    values = {keys[name]: value for name, value in dataclasses.asdict(document).items()}
    if fact := json_problem(values):
        raise DocumentError(f"holds a value that JSON cannot: {fact}")
    from_values(values, type(document), version=values["schema_version"])
    return values


def to_text(values: dict[str, Any]) -> str:
    """Format a JSON object with indentation."""
    return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def hash_of(values: dict[str, Any]) -> str:
    """The SHA-256 of a JSON object, whatever the order of its keys: the seal of a file."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def json_problem(value: Any, where: str = "") -> str | None:
    """The part of a value that JSON cannot hold, and the reason; `None` if there is none."""
    if value is None or isinstance(value, str | bool | int):
        return None
    if isinstance(value, float):
        return None if math.isfinite(value) else f"`{where}` is {value}"
    if isinstance(value, dict):
        if foreign := [key for key in value if not isinstance(key, str)]:
            return f"`{where}` has the key {foreign[0]!r}, which is not text"
        parts = value.items()
    elif isinstance(value, list | tuple):
        parts = {str(index): part for index, part in enumerate(value)}.items()
    else:
        return f"`{where}` is a {type(value).__name__}"
    facts = (json_problem(part, f"{where}.{key}" if where else key) for key, part in parts)
    return next((fact for fact in facts if fact), None)


def read_values(path: Path, *, max_bytes: int, follow_links: bool = True) -> dict[str, Any]:
    """Read the JSON object in a file.

    Args:
        path: Path of the file.
        max_bytes: Largest size of the file.
        follow_links: Whether the file may be a symbolic link, as those of a cache of downloads are.

    Raises:
        DocumentError: The file is missing, longer than `max_bytes`, or not a strict JSON object.
        RunError: The file is a symbolic link that must not be followed.
    """
    return parse_values(read_bounded(path, max_bytes=max_bytes, follow_links=follow_links))


def read_bounded(path: Path, *, max_bytes: int, follow_links: bool = True) -> bytes:
    """Read a file that must not be long; arguments and errors are those of `read_values`."""
    try:
        data = read_unlinked(Path(os.path.realpath(path)) if follow_links else path, max_bytes + 1)
    except FileNotFoundError as error:
        raise DocumentError("is missing") from error
    except OSError as error:
        raise DocumentError(f"cannot be read ({error.strerror})") from error
    if len(data) > max_bytes:
        raise DocumentError(f"is longer than {max_bytes} bytes")
    return data


def parse_values(data: bytes) -> dict[str, Any]:
    """Parse a strict JSON object, as `parse_json` does."""
    values = parse_json(data)
    if not isinstance(values, dict):
        raise DocumentError("is not a JSON object")
    return values


def parse_object(text: str) -> dict[str, Any]:
    """Parse one JSON object that another program may have written: NaN and infinite numbers are accepted.

    Raises:
        DocumentError: It is no such object; the message has the start of a value that is none.
    """
    value = parse_json(text, finite=False)
    if not isinstance(value, dict):
        raise DocumentError(f"is {shortened(value)}")
    return value


def shortened(value: object) -> str:
    """A value as the short end of a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def parse_json(data: bytes | str, *, finite: bool = True) -> Any:
    """Parse JSON from anywhere: unlike `json.loads`, refuse repeated keys and deep nesting, and raise one error only.

    Args:
        data: JSON as text, or as its UTF-8 bytes.
        finite: Whether NaN and infinite numbers are refused, as JSON itself does; other programs write them.

    Raises:
        DocumentError: It is not such JSON. The message is the end of a sentence about it.
    """
    refuse: dict[str, Any] = {"parse_constant": _refuse, "parse_float": _finite} if finite else {}
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_without_repeats, **refuse)
    except DocumentError:
        raise
    except RecursionError as error:
        raise DocumentError(_TOO_DEEP) from error
    except ValueError as error:
        raise DocumentError(f"is not JSON ({error})") from error
    # Brackets are counted first: most values have too few to be deep, and need no walk.
    if text.count("[") + text.count("{") > MAX_DEPTH and not _is_shallow(value):
        raise DocumentError(_TOO_DEEP)
    return value


MAX_DEPTH = 100
"""Deepest nesting of JSON: what walks a value needs stack for each level, and Python's ends at 1,000 frames."""
_TOO_DEEP = f"is nested more than {MAX_DEPTH} levels deep"


def _is_shallow(value: Any) -> bool:
    """Whether a value has at most `MAX_DEPTH` levels; it is walked level by level, without recursion."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [part for part in level if isinstance(part, dict | list)]
        if not level:
            return True
        level = [child for parent in level for child in (parent.values() if isinstance(parent, dict) else parent)]
    return False


def _refuse(constant: str) -> float:
    raise DocumentError(f"holds {constant}, which is not a finite number")


def _finite(digits: str) -> float:
    number = float(digits)
    return number if math.isfinite(number) else _refuse(digits[:20])


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise DocumentError(f"names `{name:.80}` twice")
        values[name] = value
    return values


def from_values(values: dict[str, Any], kind: type[Document], *, version: int | None) -> Document:
    """Turn a JSON object into the dataclass `kind`.

    Args:
        values: The object.
        kind: The dataclass.
        version: Schema version that can be read; `None`: the object has none, as a line of a file that states it.

    Raises:
        DocumentError: The schema version is not `version`, or a value does not fit; the message names the first one.
    """
    found = values.get("schema_version")
    if version is not None and found != version:
        raise DocumentError(f"has the schema_version {found!r:.40}, and this ptl-prefix reads {version}")
    try:
        # Validated as JSON text: in strict mode, only there a list is accepted for a tuple.
        document: Document = _validator(kind)(json.dumps(values))  # type: ignore[arg-type]  # classes are hashable
    except ValidationError as error:
        raise DocumentError(_fact(error)) from error
    return document


@functools.cache
def _keys_of(kind: type[Any]) -> dict[str, str]:
    """The JSON key of each field: its alias, where a file keeps a key that the field no longer has as its name."""
    hints = get_type_hints(kind, include_extras=True)
    keys = {field.name: field.name for field in dataclasses.fields(kind)}
    for name in keys:
        aliases = (getattr(part, "alias", None) for part in getattr(hints[name], "__metadata__", ()))
        keys[name] = next(filter(None, aliases), name)
    return keys


@functools.cache
def _validator(kind: type[Any]) -> Callable[[str], Any]:
    return TypeAdapter(kind).validate_json


def _fact(error: ValidationError) -> str:
    """The first problem, as the end of a sentence."""
    detail = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "unexpected_keyword_argument":
        return f"has the unknown key `{where}`"
    if detail["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"has no `{where}`"
    law = detail["msg"].removeprefix("Input should be ")
    return f"has {detail['input']!r:.80} as `{where}`, which should be {law}"
