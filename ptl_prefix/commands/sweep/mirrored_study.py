"""Studies whose workers share no disk: the definition of a study is mirrored, as its trials are.

In: a study whose trials have an `outputs_url`, or the address of a mirrored study. Out: the definition in the object
store, from which a worker on another machine makes the study's folder; and, for the report at the end, the results of
trials that ran elsewhere. The trials' states are in the study's database, and their checkpoints in their own mirrors.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import yaml

from ptl_prefix.artifacts.remote.address import STUDIES, RemoteAddress
from ptl_prefix.artifacts.remote.fetch import copy_results, fetch_folder, is_any
from ptl_prefix.artifacts.remote.mirror import Mirror
from ptl_prefix.artifacts.remote.mirror_state import read_mirror_state
from ptl_prefix.artifacts.remote.snapshot import Snapshot
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.commands.sweep.study_folder import CONFIGS, STORAGE_FILE, Study
from ptl_prefix.errors import ObjectStoreError, SweepError
from ptl_prefix.sweeping.scheduler import Scheduler
from ptl_prefix.sweeping.study_spec import STUDY_FILE, StudySpec
from ptl_prefix.sweeping.trial import trial_folder

_DEFINITION = "definition"
_REPORTED = ("finished", "pruned", "failed")
Notify = Callable[[str], None]


def study_address(study: Study) -> RemoteAddress | None:
    """The address of a study; `None` if its trials are not mirrored."""
    url = study.first_config().get("outputs_url")
    return None if url is None else RemoteAddress.parse(url) / STUDIES / f"{study.spec.name}-{study.spec.token}"


def mirror_definition(study: Study, notify: Notify) -> None:
    """Mirror the definition of a study, once; a store that fails does not keep the study from running here."""
    address = study_address(study)
    if address is None or _is_mirrored(study):
        return
    files = {path.relative_to(study.folder).as_posix(): path for path in _definition(study.folder)}
    mirror = Mirror(study.folder, address / _DEFINITION, "study", [*address.names[-2:], _DEFINITION])
    try:
        mirror.write(Snapshot(files), "open")
    except ObjectStoreError as error:
        notify(f"No other machine can join this study: {error}")
        return
    if study.storage is None or not study.storage.startswith("postgresql"):
        notify(
            "No other machine can join this study, whose trials are in a file of this one; set hydra.sweeper.storage."
        )
    else:
        notify(f"Other machines join with: ptl-prefix sweep worker {address}")


def fetch_study(text: str, studies: Path) -> Path:
    """The folder of a mirrored study on this machine, for its workers.

    Args:
        text: Address of the study.
        studies: Folder of studies.

    Raises:
        SweepError: The study's trials are in a file of another machine, or another study has its folder here.
        ObjectStoreError: No study is mirrored at the address, or the store cannot be read.
    """
    fetched = fetch_folder(RemoteAddress.parse(text) / _DEFINITION, is_any)
    place = yaml.safe_load((fetched / STORAGE_FILE).read_text(encoding="utf-8"))
    if not str(place["storage"]).startswith("postgresql"):
        raise SweepError(
            f"A study whose workers share no disk must have its trials in PostgreSQL, but those of {text} are in a "
            "file of the machine that began it; begin it with hydra.sweeper.storage=postgresql://…"
        )
    # The workers' lock in the database has the name of this folder, which must be the same everywhere.
    folder = studies / Path(place["folder"]).name
    if not (folder / STUDY_FILE).exists():
        copy_results(RemoteAddress.parse(text) / _DEFINITION, folder)
    here, there = StudySpec.read(folder), StudySpec.read(fetched)
    if here.token != there.token:
        raise SweepError(
            f"A study must have a folder of its own, but {folder} is another study of the name; move it away."
        )
    return folder


def fetch_missing_results(study: Study, scheduler: Scheduler, notify: Notify) -> None:
    """Fetch the results of trials that ran on other machines, for the report."""
    address = study_address(study)
    if address is None:
        return
    try:
        for at, folder in _missing(address, scheduler):
            copy_results(at, folder)
    except ObjectStoreError as error:
        notify(f"Trials of other machines are missing in the report: {error}")


def _missing(address: RemoteAddress, scheduler: Scheduler) -> Iterator[tuple[RemoteAddress, Path]]:
    for trial in scheduler.all_trials():
        own = trial_folder(scheduler.folder, trial.arm, trial.number)
        if trial.state in _REPORTED and "reused_from" not in trial.notes and not RunFolder(own).record.exists():
            at = address / trial.arm if trial.arm else address
            yield at / str(trial.number), own


def _is_mirrored(study: Study) -> bool:
    return read_mirror_state(study.folder) is not None


def _definition(folder: Path) -> Iterator[Path]:
    yield from (folder / STUDY_FILE, folder / STORAGE_FILE)
    yield from sorted(path for path in (folder / CONFIGS).rglob("*") if path.is_file())
