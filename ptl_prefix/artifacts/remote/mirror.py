"""Mirrors a folder in an object store.

In: a snapshot of the folder, and the address of its mirror. Out: the snapshot's files as objects, and a manifest that
names them, written last. Only what changed is sent. The first write takes the mirror over from the process that wrote
before; from then on that one is refused, however late its writes arrive.
"""

import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ptl_prefix.artifacts.fingerprint import fingerprint_file
from ptl_prefix.artifacts.remote.address import RemoteAddress
from ptl_prefix.artifacts.remote.mirror_state import MirrorState, read_mirror_state, state_of, write_mirror_state
from ptl_prefix.artifacts.remote.object_store import ObjectStore, ReplacedError
from ptl_prefix.artifacts.remote.run_manifest import (
    MANIFEST,
    Kind,
    RunManifest,
    StoredFile,
    manifest_bytes,
    now,
    object_address,
    read_manifest_at,
)
from ptl_prefix.artifacts.remote.snapshot import Snapshot
from ptl_prefix.errors import ObjectStoreError


class ReplacedMirrorError(ObjectStoreError):
    """Another process has taken the mirror over; this one must write no more."""


class Mirror:
    """The mirror of one folder, for one process.

    Args:
        folder: The local folder, whose `mirror.json` says what it has of the mirror.
        address: Address of the mirror.
        kind: What the folder is.
        place: Names below `outputs_url` that lead to it.
        store: Store of the address; `None` opens it when it is first needed.
        is_owner: Whether the folder counts whatever the mirror has, as that of a trial whose end a study has recorded.
    """

    def __init__(
        self,
        folder: Path,
        address: RemoteAddress,
        kind: Kind,
        place: list[str],
        store: ObjectStore | None = None,
        *,
        is_owner: bool = False,
    ) -> None:
        self.folder, self.address, self._kind, self._place = folder, address, kind, place
        self._store, self._is_owner = store, is_owner
        self._writer = secrets.token_hex(8)
        self._manifest: RunManifest | None = None
        self._tag: str | None = None
        self._is_ours = False
        self._present: set[str] = set()
        """Objects that this process has sent, or has seen in the store."""
        self._is_uncertain = False
        """Whether the answer of the last write was lost."""

    @property
    def store(self) -> ObjectStore:
        """The store, opened when it is first needed."""
        if self._store is None:
            self._store = ObjectStore(self.address.scheme)
        return self._store

    def require_not_behind(self) -> None:
        """Require that the mirror has nothing that the folder has not.

        Raises:
            ReplacedMirrorError: Another process has resumed the run, or the address is that of another run.
            ObjectStoreError: The store cannot be read.
        """
        if (found := read_manifest_at(self.store, self.address)) is not None:
            self._require_known(found[0])

    def _require_known(self, manifest: RunManifest) -> None:
        state = self._own_state()
        if self._is_owner or (state is not None and state.is_as_new_as(manifest)):
            return
        resume = f"ptl-prefix train resume={self.address}"
        if state is None:
            raise ReplacedMirrorError(
                f"A {self._kind} must have an address of its own, but another one is mirrored at {self.address}; "
                f"choose another `run_id` or `outputs_url`, or resume that one with: {resume}"
            )
        raise ReplacedMirrorError(
            f"A folder must have everything that its mirror has, but {self.folder} is older than {self.address}, where "
            f"another machine has gone on; move the folder away, and resume with: {resume}"
        )

    def holds(self, snapshot: Snapshot) -> bool:
        """Whether the mirror has exactly the files of a snapshot.

        Raises:
            ObjectStoreError: The store cannot be read.
        """
        found = read_manifest_at(self.store, self.address)
        return found is not None and found[0].files == _stored_files(snapshot)

    def write(self, snapshot: Snapshot, status: str, on_step: Callable[[], None] = lambda: None) -> RunManifest:
        """Send what changed, and write the manifest.

        Args:
            snapshot: Files of the folder at one moment.
            status: Status in the run's record; `open` without one.
            on_step: Called after each object; an error in it ends the upload, of which a reader sees nothing.

        Raises:
            ReplacedMirrorError: Another process has taken the mirror over.
            ObjectStoreError: The store cannot be reached, or refuses.
        """
        if not self._is_ours:
            self.take_over()
        elif self._is_uncertain:
            self._read_own()
        files = _stored_files(snapshot)
        self._send(snapshot, files, on_step)
        before = self._manifest
        manifest = self._next(files, status)
        unneeded = set() if before is None else before.objects - manifest.objects
        self._replace(manifest)
        self._remove(unneeded)
        return manifest

    def take_over(self) -> None:
        """Become the one process that writes the manifest; what is mirrored stays as it is.

        Raises:
            ReplacedMirrorError: The mirror has something that the folder has not.
            ObjectStoreError: The store cannot be reached, or refuses.
        """
        found = read_manifest_at(self.store, self.address)
        if found is not None and found[0].writer != self._writer:
            self._require_known(found[0])
            self._manifest, self._tag = found
            self._replace(replace(self._manifest, **self._own_numbers()))  # type: ignore[arg-type]
        elif found is not None:
            self._manifest, self._tag = found
        self._is_ours = True

    def _read_own(self) -> None:
        """Read what became of the last write, whose answer was lost."""
        found = read_manifest_at(self.store, self.address)
        if found is not None and found[0].writer != self._writer:
            raise self._replaced()
        if found is not None:
            self._manifest, self._tag = found
        self._is_uncertain = False

    def _own_numbers(self) -> dict[str, int | str]:
        before = self._manifest
        if before is None:
            numbers = {"epoch": 1, "sequence": 1}
        else:
            numbers = {
                "epoch": before.epoch + (before.writer != self._writer),
                "sequence": before.sequence + 1,
            }
        return {**numbers, "writer": self._writer, "written_at": now()}

    def _next(self, files: dict[str, StoredFile], status: str) -> RunManifest:
        kept = set() if self._manifest is None else {one.sha256 for one in self._manifest.files.values()}
        return RunManifest(
            kind=self._kind,
            place=self._place,
            status=status,
            files=files,
            kept=sorted(kept - {one.sha256 for one in files.values()}),
            **self._own_numbers(),  # type: ignore[arg-type]
        )

    def _send(self, snapshot: Snapshot, files: dict[str, StoredFile], on_step: Callable[[], None]) -> None:
        """Send each content once that this process has not seen in the store. An object of the right size is whole."""
        paths = {stored: snapshot.files[name] for name, stored in files.items() if stored.sha256 not in self._present}
        for stored, path in paths.items():
            target = object_address(self.address, stored.sha256)
            if self.store.size(target) != stored.bytes:
                self.store.upload(path, target)
            self._present.add(stored.sha256)
            on_step()

    def _replace(self, manifest: RunManifest) -> None:
        """Write the manifest in the place of the one that was read or written last."""
        content = manifest_bytes(manifest)
        # Before the write, whose answer may be lost: otherwise the mirror would seem to be newer than the folder.
        write_mirror_state(self.folder, state_of(manifest, self.address))
        self._is_uncertain = True
        try:
            self.store.write_if(self.address / MANIFEST, content, tag=self._tag)
        except ReplacedError as error:
            raise self._replaced() from error
        # Read back: not every store compares and writes in one step, and the tag is needed for the next write.
        self._read_own()

    def _replaced(self) -> ReplacedMirrorError:
        """The error of a process that must write no more; `mirror.json` shows again what the folder has for certain."""
        if self._manifest is not None:
            write_mirror_state(self.folder, state_of(self._manifest, self.address))
        return ReplacedMirrorError(
            f"One process must mirror a folder, but another one has taken over {self.address}; this one has stopped "
            "mirroring."
        )

    def _remove(self, unneeded: set[str]) -> None:
        """Remove objects that neither this manifest nor the previous one names; those left are cleaned later."""
        for sha256 in sorted(unneeded):
            self._present.discard(sha256)
            try:
                self.store.remove(object_address(self.address, sha256))
            except ObjectStoreError:
                return

    def _own_state(self) -> MirrorState | None:
        state = read_mirror_state(self.folder)
        return state if state is not None and state.address == str(self.address) else None


def _stored_files(snapshot: Snapshot) -> dict[str, StoredFile]:
    return {
        name: StoredFile(sha256=fingerprint_file(path), bytes=path.stat().st_size)
        for name, path in snapshot.files.items()
    }
