"""What a look at the folder of one bundle finds, and whether it has to be looked at again.

In: a folder. Out: a `Stamp`, which is another one after its files were written; and `ScannedBundle`, a bundle that can
be offered, or the reason why not.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from ptl_prefix.artifacts.manifest import MANIFEST_FILE, TENSORS_FILE
from ptl_prefix.errors import BundleError
from ptl_prefix.serving.served_bundle import ServedBundle

Stamp = tuple[int, ...]
"""What changes when a bundle's files are written: their inodes, sizes and times."""


@dataclass(frozen=True)
class ScannedBundle:
    """What a scan found in a subfolder.

    Args:
        stamp: Stamp of its files before they were read; `None` if it has none, or if the problem may be gone at the
            next scan.
        bundle: The bundle; `None` if it cannot be offered.
        folder: Folder of the bundle.
        problem: Why it cannot be offered.
    """

    stamp: Stamp | None
    bundle: ServedBundle | None = None
    folder: Path = Path()
    problem: str = ""


def stamp_of(folder: Path) -> Stamp:
    """The stamp of a bundle's files. A file's time of change cannot be set back, unlike that of the last writing.

    Raises:
        BundleError: When a file is missing.
    """
    stamp: list[int] = []
    for name in (MANIFEST_FILE, TENSORS_FILE):
        try:
            found = os.stat(folder / name)
        except OSError as error:
            raise BundleError(
                f"A bundle must hold {name}, but that of '{folder}' cannot be read ({error.strerror}); export it again."
            ) from error
        stamp += [found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]
    return tuple(stamp)


def may_pass(error: BaseException | None) -> bool:
    """Whether a problem may be gone though no file changes, such as too many open files."""
    while error is not None:
        if isinstance(error, OSError):
            return True
        error = error.__cause__
    return False
