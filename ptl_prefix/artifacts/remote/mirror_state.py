"""What a local folder knows of its mirror: `mirror.json`.

In: the manifest that a process is about to write, or has fetched. Out: where the folder is mirrored, whether the store
has something newer than the folder, and why the mirror is behind, if it is.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict

from ptl_prefix.artifacts.document_file import DocumentFile
from ptl_prefix.artifacts.json_document import STRICT
from ptl_prefix.artifacts.remote.run_manifest import RunManifest
from ptl_prefix.errors import ObjectStoreError, PtlPrefixError

SCHEMA_VERSION = 1
STATE_FILE = "mirror.json"


@dataclass(frozen=True, kw_only=True)
class MirrorState:
    """The content of `mirror.json`.

    Args:
        schema_version: Version of this format.
        address: Address of the mirror.
        epoch: `epoch` of the newest manifest that this folder wrote or was fetched from.
        sequence: Its `sequence`.
        writer: Its `writer`.
        num_bytes: Size of all files of that manifest.
        behind: Why the last attempt to mirror the folder failed; `None` if the mirror has all of it.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    schema_version: int = SCHEMA_VERSION
    address: str
    epoch: int
    sequence: int
    writer: str
    num_bytes: int = 0
    behind: str | None = None

    def is_as_new_as(self, other: "RunManifest | MirrorState") -> bool:
        """Whether the folder has everything of a manifest, or of another folder with the same mirror."""
        if self.epoch != other.epoch:
            return self.epoch > other.epoch
        return self.writer == other.writer and self.sequence >= other.sequence


_FILE = DocumentFile(
    kind=MirrorState,
    version=SCHEMA_VERSION,
    max_bytes=2**20,
    name="The state of a mirror",
    error=ObjectStoreError,
    write_advice="leave it out.",
    read_advice="remove the file, and fetch the run from its address.",
)


def state_of(manifest: RunManifest, address: object, behind: str | None = None) -> MirrorState:
    """The state of a folder that has everything of a manifest."""
    return MirrorState(
        address=str(address),
        epoch=manifest.epoch,
        sequence=manifest.sequence,
        writer=manifest.writer,
        num_bytes=manifest.num_bytes,
        behind=behind,
    )


def write_mirror_state(folder: Path, state: MirrorState) -> None:
    """Write the state into a folder."""
    _FILE.write(folder / STATE_FILE, state)


def read_mirror_state(folder: Path) -> MirrorState | None:
    """The state in a folder; `None` if the folder is not mirrored, or its state cannot be read."""
    try:
        return _FILE.read(folder / STATE_FILE)
    except PtlPrefixError:
        return None
