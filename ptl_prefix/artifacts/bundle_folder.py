"""Finds the bundle that a path means.

In: the path of a bundle or of a run folder, or an address on the hub or in an object store, wherever a bundle is
wanted. Out: the path of the bundle; and the folder for what is computed with it.
"""

from pathlib import Path

from ptl_prefix.artifacts.hub_address import HubAddress, is_hub_address
from ptl_prefix.artifacts.remote.address import RemoteAddress, is_remote_address
from ptl_prefix.artifacts.remote.open_run import open_run
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.errors import BundleError


def find_bundle(path: str | Path) -> Path:
    """The folder of a bundle: the path itself, the bundle of the run in that folder, or what was fetched from the hub.

    Raises:
        BundleError: There is no folder at the path, or the run there has no bundle.
        HubError: The bundle is on the hub and cannot be fetched.
        ObjectStoreError: The run is mirrored in an object store and cannot be fetched.
    """
    if is_hub_address(path):
        # Imported here: only few bundles are on the hub.
        from ptl_prefix.artifacts.hub_bundle import fetch_bundle

        return fetch_bundle(str(path))
    if is_remote_address(path):
        return _bundle_of(open_run(path), str(path))
    folder, run = Path(path), RunFolder(path)
    if not folder.is_dir():
        fact = "is no folder" if folder.exists() else "does not exist"
        raise BundleError(f"A bundle must be a bundle's folder or a run folder, but '{path}' {fact}; correct the path.")
    if not run.config.is_file():
        return folder
    return _bundle_of(run, str(path))


def _bundle_of(run: RunFolder, path: str) -> Path:
    if not run.bundle.is_dir():
        raise BundleError(
            f"A run must have a bundle, but {path} has none, as a run exports it at its end; resume the run, or export "
            f"a checkpoint with: ptl-prefix export run={path} checkpoint=last out=<folder>"
        )
    return run.bundle


def run_of_bundle(path: str | Path) -> RunFolder | None:
    """The run whose bundle a path means; `None` for a bundle outside of a run folder.

    Raises:
        BundleError: There is no bundle at the path.
    """
    if is_hub_address(path):
        return None
    run = RunFolder(find_bundle(path).parent)
    return run if run.config.is_file() else None


def output_folder(path: str | Path, what: str) -> Path:
    """The folder for what is computed with a bundle: in its run folder, or as `folder_beside_bundle` says.

    Args:
        path: Path or address of the bundle.
        what: What is computed, the name of the folder in a run folder.
    """
    run = None if is_remote_address(path) else run_of_bundle(path)
    return folder_beside_bundle(path, what) if run is None else run.path / what


def folder_beside_bundle(path: str | Path, what: str) -> Path:
    """The folder for what is computed with a bundle outside of a run: beside it, in `outputs/hub` or `outputs/remote`.

    Args:
        path: Path or address of the bundle.
        what: What is computed, the end of the folder's name.
    """
    if is_hub_address(path):
        return Path("outputs", "hub", f"{HubAddress.parse(str(path)).repo.replace('/', '--')}-{what}")
    if is_remote_address(path):
        return Path("outputs", "remote", f"{'--'.join(RemoteAddress.parse(str(path)).names[-4:])}-{what}")
    bundle = find_bundle(path)
    return bundle.with_name(f"{bundle.name}-{what}")
