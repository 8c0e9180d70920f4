"""Run folders and mirrored runs behind one name: what a verb takes as a run.

In: the path of a run folder, or the address of a mirrored run. Out: a run folder on this machine.
"""

from pathlib import Path

from ptl_prefix.artifacts.remote.address import RemoteAddress, is_remote_address
from ptl_prefix.artifacts.remote.cache_room import remote_cache_folder
from ptl_prefix.artifacts.remote.fetch import Wanted, fetch_folder, fetch_to_continue, is_result, require_manifest
from ptl_prefix.artifacts.remote.mirror_state import read_mirror_state
from ptl_prefix.artifacts.remote.object_store import ObjectStore
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.errors import ObjectStoreError

_OUTPUTS = Path("outputs")


def open_run(path: str | Path, wanted: Wanted = is_result) -> RunFolder:
    """Open an existing run; a mirrored one is fetched into the user's cache.

    Args:
        path: Run folder, or address of a mirrored run.
        wanted: Which files of a mirrored run are needed.

    Raises:
        RunError: There is no run folder at the path.
        ObjectStoreError: No run is mirrored at the address, or the store cannot be read.
    """
    if not is_remote_address(path):
        return RunFolder.open(path)
    address = RemoteAddress.parse(str(path))
    folder = RunFolder(fetch_folder(address, wanted), str(address))
    if not folder.config.is_file():
        raise _no_run(address)
    return folder


def folder_to_continue(path: str) -> Path:
    """The folder in which a run is resumed: the path itself, or the same place in `outputs/` for an address.

    Raises:
        ObjectStoreError: No run is mirrored at the address, or the store cannot be read.
    """
    if not is_remote_address(path):
        return Path(path)
    address = RemoteAddress.parse(path)
    manifest = require_manifest(ObjectStore(address.scheme), address)
    if manifest.kind != "run":
        raise _no_run(address)
    return _OUTPUTS.joinpath(*manifest.place)


def open_to_continue(path: str) -> RunFolder:
    """Open a run that is resumed; a mirrored one is fetched into its place in `outputs/`.

    Raises:
        RunError: There is no run folder at the path, or another process works in it.
        ObjectStoreError: No run is mirrored at the address, the store cannot be read, or the folder in `outputs/` has
            an older state of the run.
    """
    folder = RunFolder(folder_to_continue(path))
    if is_remote_address(path):
        fetch_to_continue(RemoteAddress.parse(path), folder, replaces=False)
    return RunFolder.open(folder.path)


def is_fetched(folder: Path) -> bool:
    """Whether a run folder is in the user's cache, to be read only."""
    return remote_cache_folder() in folder.parents


def shown_path(folder: Path) -> str:
    """A run's path as a user knows it: the address of a run that was fetched into the cache, else the folder."""
    if is_fetched(folder):
        state = read_mirror_state(folder)
        if state is not None:
            return state.address
    return str(folder)


def _no_run(address: RemoteAddress) -> ObjectStoreError:
    return ObjectStoreError(
        f"A mirrored run must hold a config.yaml, but {address} does not; correct the address: "
        "`ptl-prefix runs <outputs_url>` lists what is there."
    )
