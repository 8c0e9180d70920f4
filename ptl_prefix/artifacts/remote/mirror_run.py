"""Mirrors the folder of a run that does not train now, in one call.

In: a run folder, whose config says where its mirror is. Out: the mirror has everything.
"""

from ptl_prefix.artifacts.remote.address import RemoteAddress, place_of, run_address
from ptl_prefix.artifacts.remote.background_mirror import status_of
from ptl_prefix.artifacts.remote.mirror import Mirror
from ptl_prefix.artifacts.remote.object_store import ObjectStore
from ptl_prefix.artifacts.remote.run_manifest import RunManifest
from ptl_prefix.artifacts.remote.snapshot import snapshot_of_run
from ptl_prefix.artifacts.run_config import read_config
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.errors import RunError


def mirror_of(
    folder: RunFolder, outputs_url: str | None = None, store: ObjectStore | None = None, *, is_owner: bool = False
) -> Mirror:
    """The mirror of a run folder.

    Args:
        folder: Run folder.
        outputs_url: Address in the place of the config's; `None` keeps that.
        store: Store of the address; `None` opens it.
        is_owner: Whether the folder counts whatever the mirror has.

    Raises:
        RunError: The config cannot be read, or names no `outputs_url`.
    """
    config = read_config(folder, ("task", "backbone", "method"))
    if outputs_url is not None:
        config = {**config, "outputs_url": outputs_url}
    address = run_address(config)
    if address is None:
        raise RunError(
            f"A run that is mirrored must have an address, but the config of {folder.path} has no `outputs_url`; give "
            "outputs_url=<address>."
        )
    return Mirror(folder.path, address, "run", place_of(config), store, is_owner=is_owner)


def mirror_run(
    folder: RunFolder, outputs_url: str | None = None, *, is_owner: bool = False
) -> tuple[RemoteAddress, RunManifest]:
    """Mirror a run folder as it is.

    Args:
        folder: Run folder.
        outputs_url: Address in the place of the config's; `None` keeps that.
        is_owner: Whether the folder counts whatever the mirror has.

    Raises:
        RunError: Another process works in the folder, or it has no address.
        ObjectStoreError: The store cannot be reached or refuses, or the mirror is newer than the folder.
    """
    mirror = mirror_of(folder, outputs_url, is_owner=is_owner)
    with folder.held():
        snapshot = snapshot_of_run(folder)
        try:
            return mirror.address, mirror.write(snapshot, status_of(folder))
        finally:
            snapshot.remove()
