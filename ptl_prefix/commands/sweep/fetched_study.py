"""The folder of a mirrored study on a machine that shares no disk with the one that began it.

In: the address of the study. Out: its folder, made from the mirrored definition, or brought up to date with it.
"""

import shutil
from pathlib import Path

import yaml

from ptl_prefix.artifacts.atomic import write_atomically, write_folder_atomically
from ptl_prefix.artifacts.file_lock import FileLock
from ptl_prefix.artifacts.remote.address import RemoteAddress
from ptl_prefix.artifacts.remote.fetch import fetch_folder, is_any
from ptl_prefix.artifacts.remote.mirror_state import STATE_FILE, read_mirror_state
from ptl_prefix.commands.sweep.study_files import CONFIGS, CREATION_LOCK, STORAGE_FILE
from ptl_prefix.errors import ObjectStoreError, SweepError
from ptl_prefix.sweeping.study_spec import STUDY_FILE, StudySpec

DEFINITION = "definition"
"""Name of a study's definition below its address, beside the trials."""


def fetch_study(text: str, studies: Path) -> Path:
    """The folder of a mirrored study on this machine, for its workers; it is made, or brought up to date.

    Args:
        text: Address of the study.
        studies: Folder of studies.

    Raises:
        SweepError: The study's trials are in a file of another machine, or another study has its folder here.
        ObjectStoreError: No study is mirrored at the address, or the store cannot be read.
    """
    fetched = fetch_folder(RemoteAddress.parse(text) / DEFINITION, is_any)
    place = yaml.safe_load((fetched / STORAGE_FILE).read_text(encoding="utf-8"))
    if not str(place["storage"]).startswith("postgresql"):
        raise SweepError(
            f"A study whose workers share no disk must have its trials in PostgreSQL, but those of {text} are in a "
            "file of the machine that began it; begin it with hydra.sweeper.storage=postgresql://…"
        )
    # The workers' lock in the database has the name of this folder, which must be the same everywhere.
    folder = studies / Path(place["folder"]).name
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / CREATION_LOCK):  # several workers of this machine may join at once
        _bring_definition(fetched, folder)
    return folder


def _bring_definition(fetched: Path, folder: Path) -> None:
    """Copy a fetched definition into a study's folder that has none, or one with older settings."""
    newest = read_mirror_state(fetched)
    assert newest is not None, "`fetch_folder` writes it"
    if (folder / STUDY_FILE).exists():
        if StudySpec.read(folder).token != StudySpec.read(fetched).token:
            raise SweepError(
                f"A study must have a folder of its own, but {folder} is another study of the name; move it away."
            )
        own = read_mirror_state(folder)
        if own is not None and own.is_as_new_as(newest):
            return
    with write_folder_atomically(folder / CONFIGS) as unfinished:
        shutil.copytree(fetched / CONFIGS, unfinished, dirs_exist_ok=True)
    for name in (STORAGE_FILE, STUDY_FILE, STATE_FILE):  # `study.yaml` marks the folder as a study's
        write_atomically(folder / name, (fetched / name).read_bytes())


def folder_of_worker(folder: Path, address: str | None) -> Path:
    """The folder of a study for a worker of this machine, which may see the folder of the machine that began it.

    Args:
        folder: Path of the study's folder there.
        address: Address at which the study can be joined; `None` if all machines must see the folder.

    Raises:
        SweepError: The folder is that of another study.
        ObjectStoreError: This machine has no folder of the study, and the store cannot be read.
    """
    if address is None:
        return folder
    try:
        return fetch_study(address, folder.parent)
    except ObjectStoreError:
        if not (folder / STUDY_FILE).exists():
            raise
        return folder
