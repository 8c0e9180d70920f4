"""Runs of an object store as local folders.

In: the address of a mirrored run, and which of its files are needed. Out: a folder on this machine with these files, as
one manifest names them: in the user's cache for whoever reads, or in a run folder for a process that resumes the run.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from ptl_prefix.artifacts.atomic import write_file_atomically, write_folder_atomically
from ptl_prefix.artifacts.fingerprint import fingerprint_text
from ptl_prefix.artifacts.remote.address import RemoteAddress
from ptl_prefix.artifacts.remote.cache_room import RUNS, cache_in_use, keep, release, remote_cache_folder
from ptl_prefix.artifacts.remote.local_cache import MissingObjectError, cached_object
from ptl_prefix.artifacts.remote.mirror import Mirror, ReplacedMirrorError
from ptl_prefix.artifacts.remote.mirror_state import STATE_FILE, read_mirror_state, state_of, write_mirror_state
from ptl_prefix.artifacts.remote.object_store import ObjectStore
from ptl_prefix.artifacts.remote.run_manifest import RunManifest, StoredFile, manifest_bytes, read_manifest_at
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.errors import ObjectStoreError

Result = TypeVar("Result")
Wanted = Callable[[str], bool]
"""Whether a file of a run is needed, by its name."""

_SUMMARY = ("config.yaml", "record.json", "events.jsonl")
_LARGE = ("checkpoints/", "model/")
_ATTEMPTS = 4
_FINISHED = "finished"


def is_summary(name: str) -> bool:
    """The files by which a list shows a run."""
    return name in _SUMMARY


def is_result(name: str) -> bool:
    """Everything that a comparison, an evaluation or a server reads: all but checkpoints and a whole model."""
    return not name.startswith(_LARGE)


def is_any(name: str) -> bool:
    """Every file."""
    return True


def require_manifest(store: ObjectStore, address: RemoteAddress) -> RunManifest:
    """The manifest of a mirrored folder.

    Raises:
        ObjectStoreError: Nothing is mirrored at the address, or the store cannot be read.
    """
    found = read_manifest_at(store, address)
    if found is None:
        raise ObjectStoreError(
            f"A mirrored run must have a manifest, but there is none at {address}; correct the address: "
            "`ptl-prefix runs <outputs_url>` lists what is there."
        )
    return found[0]


def fetch_folder(address: RemoteAddress, wanted: Wanted = is_result) -> Path:
    """A mirrored folder in the user's cache. It is read only: whoever writes works in a folder of their own.

    It stays until this process releases it or ends.

    Args:
        address: Address of the mirror.
        wanted: Which files are needed.

    Raises:
        ObjectStoreError: Nothing is mirrored there, or the store cannot be read.
    """
    store = ObjectStore(address.scheme)
    with cache_in_use():
        folder = _consistent(store, address, lambda manifest: _cached_folder(store, address, manifest, wanted))
        keep(folder)
    return folder


def _cached_folder(store: ObjectStore, address: RemoteAddress, manifest: RunManifest, wanted: Wanted) -> Path:
    """The folder in the cache with some files of a manifest; they are fetched unless they are there."""
    files = {name: one for name, one in manifest.files.items() if wanted(name)}
    # The last two names stay, as the folder above a trial says what kind of trial it is.
    digest = fingerprint_text(str(address), manifest_bytes(manifest).decode(), *sorted(files))[:24]
    folder = remote_cache_folder() / RUNS / digest / Path(*address.names[-2:])
    if not (folder / STATE_FILE).is_file():
        with write_folder_atomically(folder) as unfinished:
            for name, file in files.items():
                _put(cached_object(store, address, file), unfinished / name, manifest)
            write_mirror_state(unfinished, state_of(manifest, address))
    return folder


def fetch_to_continue(address: RemoteAddress, folder: RunFolder, *, replaces: bool) -> None:
    """Bring a run folder to the state of its mirror, and take the mirror over, for a process that resumes the run.

    From then on a process that wrote before, and is slow rather than dead, is refused. What it writes between the two
    steps is fetched, too. The mirror of a finished run stays as it is: nobody writes it.

    Args:
        address: Address of the mirror.
        folder: Run folder, which need not exist yet.
        replaces: Whether a folder with an older state of the run is brought to the newest one.

    Raises:
        RunError: Another process works in the folder.
        ObjectStoreError: As of `fetch_into`, or other processes write the mirror all the time.
    """
    for _ in range(_ATTEMPTS):
        manifest = fetch_into(address, folder, replaces=replaces)
        if manifest.status == _FINISHED:
            return
        try:
            Mirror(folder.path, address, manifest.kind, manifest.place).take_over()
        except ReplacedMirrorError:
            replaces = True  # the folder is as it was just fetched
        except ObjectStoreError:
            return  # the mirror falls behind, and the run says so
        else:
            return
    raise _changes_all_the_time(address)


def fetch_into(address: RemoteAddress, folder: RunFolder, *, replaces: bool) -> RunManifest:
    """Bring a run folder to the state of its mirror.

    Nothing is fetched if the folder has everything already. The config, which marks a folder as a run's, comes last, so
    that a killed fetch into a new folder is repeated.

    Args:
        address: Address of the mirror.
        folder: Run folder, which need not exist yet.
        replaces: Whether a folder with an older state of the run is brought to the newest one.

    Returns:
        The manifest of which the folder has everything.

    Raises:
        RunError: Another process works in the folder.
        ObjectStoreError: Nothing is mirrored there, the folder holds another run, or one that is older than the mirror
            where `replaces` is not set.
    """
    store = ObjectStore(address.scheme)

    def bring(manifest: RunManifest) -> RunManifest:
        state = read_mirror_state(folder.path)
        is_same = state is not None and state.address == str(address)
        if state is not None and is_same and state.is_as_new_as(manifest):
            return manifest
        if folder.config.exists() and not replaces:
            fact = "is older than that" if is_same else "holds another run, or was not mirrored there"
            raise ObjectStoreError(
                f"A run of {address} must be resumed in a folder with the newest state, but {folder.path} {fact}; move "
                "the folder away, and repeat the command."
            )
        with folder.held():
            _bring(store, address, manifest, folder)
        return manifest

    with cache_in_use():
        return _consistent(store, address, bring)


def _bring(store: ObjectStore, address: RemoteAddress, manifest: RunManifest, folder: RunFolder) -> None:
    paths = {name: cached_object(store, address, file) for name, file in manifest.files.items()}
    (folder.path / STATE_FILE).unlink(missing_ok=True)
    for part in (folder.record, folder.bundle, folder.evaluation, folder.model, folder.checkpoints):
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink(missing_ok=True)
    for name in sorted(paths, key=lambda name: (name == folder.config.name, name)):
        with write_file_atomically(folder.path / name, follow_links=False) as temporary:
            shutil.copyfile(paths[name], temporary)  # no link: the log grows in place
    write_mirror_state(folder.path, state_of(manifest, address))


def _consistent(store: ObjectStore, address: RemoteAddress, use: Callable[[RunManifest], Result]) -> Result:
    """Use a manifest; if an object of it is gone, as a newer manifest replaced it meanwhile, use that one."""
    before: Mapping[str, StoredFile] | None = None
    for _ in range(_ATTEMPTS):
        manifest = require_manifest(store, address)
        try:
            return use(manifest)
        except MissingObjectError:
            if manifest.files == before:
                raise
            before = manifest.files
    raise _changes_all_the_time(address)


def _changes_all_the_time(address: RemoteAddress) -> ObjectStoreError:
    return ObjectStoreError(
        f"{address} must stay the same while it is read, but changes all the time; try again later."
    )


def _put(source: Path, target: Path, manifest: RunManifest) -> None:
    """Put an object of the cache into a folder of the cache; a list of runs reads its age from the small files."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if is_summary(target.name):
        shutil.copyfile(source, target)
        written = datetime.fromisoformat(manifest.written_at).timestamp()
        os.utime(target, (written, written))
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def copy_results(address: RemoteAddress, folder: Path) -> None:
    """Copy what a report reads of a mirrored run into a folder without it, which nobody resumes.

    Raises:
        ObjectStoreError: Nothing is mirrored there, or the store cannot be read.
    """
    fetched = fetch_folder(address)
    with write_folder_atomically(folder) as unfinished:
        shutil.copytree(fetched, unfinished, dirs_exist_ok=True)
        (unfinished / STATE_FILE).unlink()
    release(fetched)
