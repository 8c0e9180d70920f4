"""Finds the bundle that a path means.

In: the path of a bundle, or of a run folder, wherever a bundle is wanted. Out: the path of the bundle.
"""

from pathlib import Path

from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.errors import BundleError


def find_bundle(path: str | Path) -> Path:
    """The folder of a bundle: the path itself, or the bundle of the run in that folder.

    Raises:
        BundleError: There is no folder at the path, or the run there has no bundle.
    """
    folder, run = Path(path), RunFolder(path)
    if not folder.is_dir():
        fact = "is no folder" if folder.exists() else "does not exist"
        raise BundleError(f"A bundle must be a bundle's folder or a run folder, but '{path}' {fact}; correct the path.")
    if not run.config.is_file():
        return folder
    if not run.bundle.is_dir():
        raise BundleError(
            f"A run must have a bundle, but {path} has none, as a run exports it at its end; resume the run, or export "
            f"a checkpoint with: ptl-prefix export run={path} checkpoint=last out=<folder>"
        )
    return run.bundle
