"""Studies whose workers share no disk: the definition of a study is mirrored, as its trials are.

In: a study whose trials have an `outputs_url`. Out: the definition in the object store, from which a worker on another
machine makes the study's folder (`fetched_study.py`); and, for the report at the end, the results of trials that ran
elsewhere. The trials' states are in the study's database, and their checkpoints in their own mirrors.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from ptl_prefix.artifacts.printed_command import printed_command
from ptl_prefix.artifacts.remote.address import RemoteAddress
from ptl_prefix.artifacts.remote.fetch import copy_results
from ptl_prefix.artifacts.remote.mirror import Mirror, ReplacedMirrorError
from ptl_prefix.artifacts.remote.object_store import ObjectStore
from ptl_prefix.artifacts.remote.run_manifest import read_manifest_at
from ptl_prefix.artifacts.remote.snapshot import Snapshot
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import read_record
from ptl_prefix.commands.sweep.fetched_study import DEFINITION
from ptl_prefix.commands.sweep.study_files import CONFIGS, STORAGE_FILE
from ptl_prefix.commands.sweep.study_folder import Study
from ptl_prefix.errors import ObjectStoreError, PtlPrefixError
from ptl_prefix.sweeping.result_cache import mark_pruned
from ptl_prefix.sweeping.scheduler import Scheduler
from ptl_prefix.sweeping.study_spec import STUDY_FILE
from ptl_prefix.sweeping.trial import Trial, trial_folder

_REPORTED = ("finished", "pruned", "failed")
Notify = Callable[[str], None]


def mirror_definition(study: Study, notify: Notify) -> None:
    """Mirror the definition of a study, unless the mirror has it as it is, with the settings that a study may change.

    A store that fails does not keep the study from running here.
    """
    address = study.address
    if address is None:
        return
    snapshot = Snapshot({path.relative_to(study.folder).as_posix(): path for path in _definition(study.folder)})
    mirror = Mirror(study.folder, address / DEFINITION, "study", [*address.names[-2:], DEFINITION])
    try:
        if mirror.holds(snapshot):
            return
        mirror.write(snapshot, "open")
    except ReplacedMirrorError:
        notify(
            f"Other machines do not learn the settings of this study here, as another machine has changed them at "
            f"{address}; resume it with: {printed_command('sweep', 'resume', str(address))}"
        )
    except ObjectStoreError as error:
        notify(f"No other machine can join this study: {error}")
    else:
        notify(
            "No other machine can join this study, whose trials are in a file of this one; set hydra.sweeper.storage."
            if study.address_to_join is None
            else f"Other machines join with: {printed_command('sweep', 'worker', str(address))}"
        )


def fetch_missing_results(study: Study, scheduler: Scheduler, notify: Notify) -> None:
    """Fetch the results of trials that ended on other machines, for the report.

    A folder that has an older state of such a trial, which began here, is replaced.
    """
    address = study.address
    if address is None:
        return
    try:
        for trial in scheduler.all_trials():
            if trial.state in _REPORTED and not _has_result(RunFolder(trial.folder(scheduler.folder)), trial):
                _fetch_result(
                    address, trial, RunFolder(trial_folder(scheduler.folder, trial.arm, trial.number)), notify
                )
    except ObjectStoreError as error:
        notify(f"Trials of other machines are missing in the report: {error}")


def _fetch_result(study: RemoteAddress, trial: Trial, folder: RunFolder, notify: Notify) -> None:
    own = study / trial.arm / str(trial.number) if trial.arm else study / str(trial.number)
    address = RemoteAddress.parse(trial.notes["reused_address"]) if "reused_address" in trial.notes else own
    if read_manifest_at(ObjectStore(address.scheme), address) is not None:
        copy_results(address, folder.path)
        if trial.state == "pruned":
            mark_pruned(folder)  # by whichever worker ended the search, on a machine without the folder
    if trial.state != "failed" and not _has_result(folder, trial):
        notify(
            f"The report lacks trial {folder.path.relative_to(folder.path.parents[1 if trial.arm else 0])}, which "
            f"{trial.state} on another machine: {address} does not have its result; repeat the upload there with "
            "`ptl-prefix mirror <folder of the trial>`, and resume the study."
        )


def _has_result(folder: RunFolder, trial: Trial) -> bool:
    """Whether a folder has the record of a trial as it ended; that of a failed one may say anything."""
    try:
        return trial.state in ("failed", read_record(folder.record).status)
    except PtlPrefixError:
        return False


def _definition(folder: Path) -> Iterator[Path]:
    yield from (folder / STUDY_FILE, folder / STORAGE_FILE)
    yield from sorted(path for path in (folder / CONFIGS).rglob("*") if path.is_file())
