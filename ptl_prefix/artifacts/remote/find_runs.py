"""Finds mirrored runs below an address, and removes what no manifest names.

In: an address, such as an `outputs_url`. Out: the addresses of the runs whose manifests a listing shows. A listing may
be old: a run that it does not show yet is still readable at its own address, and one that is gone is left out.
"""

import time
from collections.abc import Callable, Iterator

from ptl_prefix.artifacts.remote.address import RemoteAddress
from ptl_prefix.artifacts.remote.fetch import require_manifest
from ptl_prefix.artifacts.remote.object_store import DamagedObjectError, ObjectStore
from ptl_prefix.artifacts.remote.run_manifest import OBJECTS, RunManifest, object_address, read_manifest_at

OnDamage = Callable[[RemoteAddress, str], None]

_MAX_DEPTH = 8
"""Folders below an address in which runs are searched."""


def find_manifests(
    store: ObjectStore, address: RemoteAddress, on_damage: OnDamage | None = None
) -> Iterator[tuple[RemoteAddress, RunManifest]]:
    """The mirrored runs at or below an address, in the order of their addresses.

    Args:
        store: Store of the address.
        address: Address at or above mirrored runs.
        on_damage: Called with the address of a damaged manifest and the reason; `None` raises it.

    Raises:
        DamagedObjectError: A manifest is damaged, and there is no `on_damage`.
        ObjectStoreError: The store cannot be read.
    """
    yield from _below(store, address, _MAX_DEPTH, on_damage)


def _below(
    store: ObjectStore, address: RemoteAddress, depth: int, on_damage: OnDamage | None
) -> Iterator[tuple[RemoteAddress, RunManifest]]:
    try:
        found = read_manifest_at(store, address)
    except DamagedObjectError as error:
        if on_damage is None:
            raise
        on_damage(address, str(error))
        return
    if found is not None:
        if found[0].kind == "run":
            yield address, found[0]
        return
    if depth == 0:
        return
    folders, _ = store.names(address)
    for name in folders:
        if name != OBJECTS and not name.startswith("."):
            yield from _below(store, address / name, depth - 1, on_damage)


def remove_unnamed_objects(address: RemoteAddress, *, older_than_s: float) -> list[str]:
    """Remove the objects of one run that its manifest does not name, as a killed upload leaves them.

    Args:
        address: Address of a mirrored run.
        older_than_s: Age in seconds that such an object must have: a younger one may belong to an upload that goes on.

    Returns:
        The hashes of the removed objects.

    Raises:
        ObjectStoreError: Nothing is mirrored there, or the store cannot be read or written.
    """
    store = ObjectStore(address.scheme)
    # Listed first: an object that a newer manifest names is older than that manifest.
    _, objects = store.names(address / OBJECTS)
    named = require_manifest(store, address).objects
    now = time.time()
    unnamed = sorted(name for name, written in objects.items() if name not in named and now - written > older_than_s)
    for name in unnamed:
        store.remove(object_address(address, name))
    return unnamed
