"""A folder as it is at one moment, while its owner goes on writing.

In: a run folder between two steps of its training, or a study's definition. Out: a folder of links and copies that
does not change, for the mirror to read at its own pace. A checkpoint is replaced by renaming, so a second name keeps
the old one; the log grows in place, so it is copied up to its present end.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ptl_prefix.artifacts.run_folder import RunFolder

STAGING = ".mirror"
"""The folder of snapshots inside a run folder, which is not mirrored itself."""

_FILES = ("config.yaml", "record.json", "distill.json", "log.txt", "metrics.csv")
_FOLDERS = ("bundle", "evaluation", "examination", "inspection", "model")


class Snapshot:
    """Names and paths of the files of a snapshot.

    Args:
        files: Path of each file, by its name in the folder with slashes.
        folder: Folder of the links and copies, which `remove` removes; `None` if there are none.
    """

    def __init__(self, files: dict[str, Path], folder: Path | None = None) -> None:
        self.files, self._folder = files, folder

    def remove(self) -> None:
        """Remove the links and copies."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def snapshot_of_run(folder: RunFolder) -> Snapshot:
    """What is mirrored of a run: config, record, log, best and last checkpoint, bundle, evaluations and model.

    The caller writes none of these files meanwhile, except for the log.

    Raises:
        OSError: The disk takes neither a link nor a copy.
    """
    staging = folder.path / STAGING
    staging.mkdir(exist_ok=True)
    root = Path(tempfile.mkdtemp(dir=staging))
    files: dict[str, Path] = {}
    try:
        for source in folder_files(folder):
            name = source.relative_to(folder.path).as_posix()
            target = root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                if source == folder.events or source.suffix in (".txt", ".csv"):
                    _copy_whole_lines(source, target)
                else:
                    _link(source, target)
                files[name] = target
    except BaseException:
        shutil.rmtree(root, ignore_errors=True)
        raise
    return Snapshot(files, root)


def remove_old_snapshots(folder: RunFolder) -> None:
    """Remove what a killed process left; no other process may mirror the folder now."""
    shutil.rmtree(folder.path / STAGING, ignore_errors=True)


def folder_files(folder: RunFolder) -> Iterator[Path]:
    """The files of a run that are mirrored."""
    single = (*(folder.path / name for name in _FILES), folder.events, folder.best, folder.last)
    yield from (path for path in single if path.is_file())
    for name in _FOLDERS:
        for root, names, files in os.walk(folder.path / name):
            names[:] = sorted(one for one in names if not one.startswith("."))
            yield from (Path(root, one) for one in sorted(files) if not one.startswith("."))


def _link(source: Path, target: Path) -> None:
    if source.is_symlink():  # a run folder may come from anyone: no other file of this machine is uploaded
        raise FileNotFoundError(source)
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # a file system without links
        shutil.copyfile(source, target)


def _copy_whole_lines(source: Path, target: Path) -> None:
    """Copy a file that grows, up to its last whole line."""
    if source.is_symlink():
        raise FileNotFoundError(source)
    content = source.read_bytes()
    target.write_bytes(content[: content.rfind(b"\n") + 1])
