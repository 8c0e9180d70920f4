"""Objects that were fetched, on this machine: `remote/objects/<first two digits>/<SHA-256>` in the user's cache.

In: a file of a manifest. Out: the path of its content, whose hash was compared. A fetched object is written beside its
place and renamed, so that a killed process leaves nothing that looks whole. `cache_room.py` keeps the cache small.
"""

from pathlib import Path

from ptl_prefix.artifacts.atomic import write_file_atomically
from ptl_prefix.artifacts.fingerprint import fingerprint_file
from ptl_prefix.artifacts.remote.address import RemoteAddress
from ptl_prefix.artifacts.remote.cache_room import OBJECTS, remote_cache_folder
from ptl_prefix.artifacts.remote.object_store import DamagedObjectError, ObjectStore
from ptl_prefix.artifacts.remote.run_manifest import StoredFile, object_address


class MissingObjectError(DamagedObjectError):
    """A manifest names an object that is gone, as a newer manifest has replaced it meanwhile."""


def cached_object(store: ObjectStore, folder: RemoteAddress, file: StoredFile) -> Path:
    """The path of an object in the cache; it is fetched unless it is there and whole. Only while the cache is in use.

    Raises:
        MissingObjectError: The store has no such object.
        DamagedObjectError: The store sends other bytes than the manifest names.
        ObjectStoreError: The store cannot be read.
    """
    path = remote_cache_folder() / OBJECTS / file.sha256[:2] / file.sha256
    if _is_whole(path, file):
        return path
    address = object_address(folder, file.sha256)
    if (size := store.size(address)) is not None and size != file.bytes:  # no more bytes than named are fetched
        raise _damaged(address)
    with write_file_atomically(path, follow_links=False) as temporary:
        if size is None or not store.fetch(address, temporary):
            raise MissingObjectError(
                f"The object of a manifest must be in the store, but there is no {address}; mirror the run again with "
                "`ptl-prefix mirror` from the machine that has its folder."
            )
        if not _is_whole(temporary, file):
            raise _damaged(address)
    return path


def _is_whole(path: Path, file: StoredFile) -> bool:
    return path.is_file() and path.stat().st_size == file.bytes and fingerprint_file(path) == file.sha256


def _damaged(address: RemoteAddress) -> DamagedObjectError:
    return DamagedObjectError(
        f"An object must have the bytes that its name is the hash of, but {address} has others; remove it, and mirror "
        "the run again with `ptl-prefix mirror` from the machine that has its folder."
    )
