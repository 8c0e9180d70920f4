"""The manifest of a mirrored folder: `manifest.json`, the one object by which a reader sees it.

In: the names, hashes and sizes of a folder's files, and who mirrors it. Out: the same, strictly read. It is written
last, when every object that it names is there: so a reader sees a folder as it was at one moment, or not at all.

`epoch` counts the processes that have mirrored the folder one after another, each of which takes it over from the one
before; `sequence` counts the writes. A process that finds another epoch than its own has been replaced, and stops.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le, Predicate
from pydantic import ConfigDict

from ptl_prefix.artifacts.json_document import STRICT, DocumentError, from_values, parse_values, to_text, to_values
from ptl_prefix.artifacts.remote.address import RemoteAddress
from ptl_prefix.artifacts.remote.object_store import DamagedObjectError, ObjectStore

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
OBJECTS = "objects"
_MAX_BYTES = 16 * 2**20

_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"(?!\.)[^\x00-\x1f/\\]{1,255}")

Sha256 = Annotated[str, Predicate(lambda text: _SHA256.fullmatch(text) is not None)]
Count = Annotated[int, Ge(0), Le(2**63 - 1)]
Kind = Literal["run", "study"]


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """One file of a mirrored folder.

    Args:
        sha256: SHA-256 of its content, which is the name of its object.
        bytes: Size.
    """

    sha256: Sha256
    bytes: Count


@dataclass(frozen=True, kw_only=True)
class RunManifest:
    """The content of `manifest.json`.

    Args:
        schema_version: Version of this format.
        kind: What the folder is: a `run`, or the definition of a `study`.
        place: Names below `outputs_url` that lead to the folder.
        status: Status in the run's record; `open` without one.
        epoch: Number of the process that mirrors the folder, from 1.
        sequence: Number of writes of this manifest, from 1.
        writer: Random name of that process.
        written_at: Time of writing, in ISO format.
        files: The files, by their name in the folder with slashes.
        kept: Objects of the manifest before this one, which readers of it may still fetch.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    schema_version: int = SCHEMA_VERSION
    kind: Kind
    place: list[str]
    status: str
    epoch: Annotated[int, Ge(1)]
    sequence: Annotated[int, Ge(1)]
    writer: str
    written_at: str
    files: dict[str, StoredFile]
    kept: list[Sha256] = field(default_factory=list)

    @property
    def objects(self) -> set[str]:
        """The hashes of all objects that must stay."""
        return {one.sha256 for one in self.files.values()} | set(self.kept)

    @property
    def age_s(self) -> float:
        """Seconds since it was written, by this machine's clock."""
        return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(self.written_at)).total_seconds())

    @property
    def num_bytes(self) -> int:
        """Size of all files."""
        return sum(one.bytes for one in self.files.values())


def now() -> str:
    """The time of writing."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def object_address(folder: RemoteAddress, sha256: str) -> RemoteAddress:
    """Where the object of a mirrored folder is."""
    return folder / OBJECTS / sha256


def read_manifest_at(store: ObjectStore, folder: RemoteAddress) -> tuple[RunManifest, str] | None:
    """The manifest of a mirrored folder and the tag of its version; `None` if nothing is mirrored there.

    Raises:
        DamagedObjectError: The manifest is damaged or of another version.
        ObjectStoreError: The store cannot be read.
    """
    found = store.read_tagged(folder / MANIFEST, max_bytes=_MAX_BYTES)
    if found is None:
        return None
    content, tag = found
    return parse_manifest(content, f"{folder}/{MANIFEST}"), tag


def parse_manifest(content: bytes, where: str | Path) -> RunManifest:
    """Parse a manifest.

    Raises:
        DamagedObjectError: It is damaged or of another version.
    """
    try:
        manifest = from_values(parse_values(content), RunManifest, version=SCHEMA_VERSION)
        _check_names(manifest.files)
        datetime.fromisoformat(manifest.written_at)
    except (DocumentError, ValueError) as error:
        raise DamagedObjectError(
            f"The manifest of a mirrored folder must be whole and of a known version, but {where} {error}; mirror the "
            "folder again with `ptl-prefix mirror`."
        ) from error
    return manifest


def manifest_bytes(manifest: RunManifest) -> bytes:
    """The text of a manifest."""
    return to_text(to_values(manifest)).encode()


def _check_names(files: Mapping[str, Any]) -> None:
    """Require names that stay inside the folder: a manifest may come from anyone."""
    for name in files:
        if not all(_NAME.fullmatch(part) for part in name.split("/")):
            raise DocumentError(f"names the file {name!r:.100}, which is no path of visible files inside a run folder")
