"""The definition of a study reaches a machine that shares no disk, and the results come back."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from support.made_up_runs import MadeUp
from support.mirrored_folders import contents, small_run, write_now
from support.object_store import BUCKET, FaultyStore
from support.study_schedulers import spec

from ptl_prefix.artifacts.remote.address import RemoteAddress
from ptl_prefix.artifacts.remote.mirror import Mirror
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import Status, read_record, write_record
from ptl_prefix.commands.sweep.fetched_study import fetch_study, folder_of_worker
from ptl_prefix.commands.sweep.mirrored_study import fetch_missing_results, mirror_definition
from ptl_prefix.commands.sweep.study_files import CREATION_LOCK, STORAGE_FILE
from ptl_prefix.commands.sweep.study_folder import Study, open_study
from ptl_prefix.errors import ObjectStoreError, SweepError
from ptl_prefix.sweeping.scheduler import Scheduler
from ptl_prefix.sweeping.trial import State, Trial

URL = f"s3://{BUCKET}/outputs"
ADDRESS = f"{URL}/sweeps/small-abc123"
POSTGRES = "postgresql://db/studies"


def study_in(folder: Path, storage: str | None = POSTGRES, url: str | None = URL, **changes: Any) -> Study:
    (folder / "configs/conf").mkdir(parents=True)
    (folder / "configs/first.yaml").write_text(yaml.safe_dump({"outputs_url": url}))
    (folder / "configs/conf/train.yaml").write_text("seed: 0\n")
    (folder / STORAGE_FILE).write_text(yaml.safe_dump({"storage": storage, "folder": folder.name}))
    spec(**changes).write(folder)
    return open_study(folder)


def test_a_worker_elsewhere_has_the_definition_in_a_folder_of_the_same_name(store: FaultyStore, tmp_path: Path) -> None:
    told: list[str] = []
    study = study_in(tmp_path / "here/folder-of-the-study")

    mirror_definition(study, told.append)
    mirror_definition(study, told.append)  # resumed: it is there

    assert told == [f"Other machines join with: ptl-prefix sweep worker {ADDRESS}"]
    assert study.address_to_join == RemoteAddress.parse(ADDRESS)
    folder = fetch_study(ADDRESS, tmp_path / "there")
    assert folder == tmp_path / "there/folder-of-the-study"
    assert contents(folder) == {**contents(study.folder), CREATION_LOCK: b""}
    assert open_study(folder).spec == study.spec
    assert fetch_study(ADDRESS, tmp_path / "there") == folder


def test_a_study_whose_trials_are_in_a_file_is_not_joined_from_elsewhere(store: FaultyStore, tmp_path: Path) -> None:
    told: list[str] = []

    mirror_definition(study_in(tmp_path / "here", storage=None), told.append)

    assert "set hydra.sweeper.storage" in told[0]
    with pytest.raises(SweepError, match="must have its trials in PostgreSQL"):
        fetch_study(ADDRESS, tmp_path / "there")


def test_a_machine_that_has_joined_learns_settings_that_have_changed(store: FaultyStore, tmp_path: Path) -> None:
    told: list[str] = []
    study = study_in(tmp_path / "here/small", n_trials=4)
    mirror_definition(study, told.append)
    there = fetch_study(ADDRESS, tmp_path / "there")
    (there / "3").mkdir()

    replace(study.spec, n_trials=9).write(study.folder)
    mirror_definition(open_study(study.folder), told.append)

    assert fetch_study(ADDRESS, tmp_path / "there") == there
    assert open_study(there).spec.n_trials == 9
    assert (there / "3").is_dir()
    assert fetch_study(ADDRESS, study.folder.parent) == study.folder
    assert open_study(study.folder).spec.n_trials == 9
    assert len(told) == 2

    # The other machine changes them, too; the first one then has older settings, and does not win.
    replace(study.spec, n_trials=12).write(there)
    mirror_definition(open_study(there), told.append)
    mirror_definition(open_study(study.folder), told.append)
    assert fetch_study(ADDRESS, study.folder.parent) == study.folder
    assert open_study(study.folder).spec.n_trials == 12
    assert told[-1].startswith("Other machines do not learn the settings of this study here")
    assert f"ptl-prefix sweep resume {ADDRESS}" in told[-1]


def test_workers_of_one_machine_join_at_once(store: FaultyStore, tmp_path: Path) -> None:
    study = study_in(tmp_path / "here/small")
    mirror_definition(study, lambda text: None)

    with ThreadPoolExecutor(8) as threads:
        folders = set(threads.map(lambda _: fetch_study(ADDRESS, tmp_path / "there"), range(8)))

    (folder,) = folders
    assert open_study(folder).spec == study.spec


def test_a_worker_uses_a_folder_that_it_sees_if_the_store_is_gone(store: FaultyStore, tmp_path: Path) -> None:
    study = study_in(tmp_path / "here/small")
    mirror_definition(study, lambda text: None)
    store.fault("error")

    assert folder_of_worker(study.folder, ADDRESS) == study.folder
    assert folder_of_worker(tmp_path / "nowhere", None) == tmp_path / "nowhere"
    with pytest.raises(ObjectStoreError):
        folder_of_worker(tmp_path / "there/small", ADDRESS)


def test_another_study_of_the_name_is_not_taken_for_it(store: FaultyStore, tmp_path: Path) -> None:
    mirror_definition(study_in(tmp_path / "here/small"), lambda text: None)
    study_in(tmp_path / "there/small", token="fff000")

    with pytest.raises(SweepError, match="is another study of the name"):
        fetch_study(ADDRESS, tmp_path / "there")


def test_a_study_without_a_store_is_not_mirrored_and_a_store_that_fails_is_told(
    store: FaultyStore, tmp_path: Path
) -> None:
    told: list[str] = []
    local = study_in(tmp_path / "local", url=None)
    assert local.address is None
    mirror_definition(local, told.append)
    assert told == []

    store.fault("error")
    mirror_definition(study_in(tmp_path / "mirrored"), told.append)
    assert told[0].startswith("No other machine can join this study: ")


def ended(number: int, state: State = "finished", arm: str = "prefix", **notes: Any) -> Trial:
    of_point: dict[str, Any] = {"params": {}, "intermediate_values": {}, "value": 1.0}
    return Trial(arm=arm, number=number, trial_id=number, state=state, notes=notes, **of_point)


def ran_elsewhere(folder: Path, address: RemoteAddress, status: Status = "finished") -> RunFolder:
    """A run of another machine, mirrored there."""
    ran = small_run(folder)
    write_record(ran.record, replace(MadeUp().record(), status=status))
    write_now(Mirror(ran.path, address, "run", address.names[1:]), ran)
    return ran


def fetch_results(study: Study, *trials: Trial) -> list[str]:
    told: list[str] = []
    scheduler = cast(Scheduler, SimpleNamespace(folder=study.folder, all_trials=lambda: trials))
    fetch_missing_results(study, scheduler, told.append)
    return told


def results_of(folder: RunFolder) -> dict[str, bytes]:
    return {name: one for name, one in contents(folder.path).items() if not name.startswith("checkpoints/")}


def test_results_of_trials_elsewhere_are_fetched_for_the_report(store: FaultyStore, tmp_path: Path) -> None:
    study = study_in(tmp_path / "study")
    ran = ran_elsewhere(tmp_path / "elsewhere", RemoteAddress.parse(ADDRESS) / "prefix" / "3")
    pruned = ran_elsewhere(tmp_path / "pruned", RemoteAddress.parse(ADDRESS) / "prefix" / "5", "stopped")

    assert fetch_results(study, ended(3), ended(4, "running"), ended(5, "pruned")) == []

    assert contents(study.folder / "prefix/3") == results_of(ran)
    assert not (study.folder / "prefix/4").exists()
    # Another machine ended the search, and could not write the record of this one.
    assert read_record(study.folder / "prefix/5/record.json").status == "pruned"
    assert read_record(pruned.record).status == "stopped"


def test_an_older_state_of_a_trial_that_ended_elsewhere_is_replaced(store: FaultyStore, tmp_path: Path) -> None:
    study = study_in(tmp_path / "study")
    ran = ran_elsewhere(tmp_path / "elsewhere", RemoteAddress.parse(ADDRESS) / "prefix" / "3")
    began = small_run(study.folder / "prefix/3", step=7)
    write_record(began.record, replace(MadeUp().record(), status="stopped"))

    assert fetch_results(study, ended(3)) == []

    assert contents(began.path) == results_of(ran)
    own = contents(began.path)
    store.fault("error")
    assert fetch_results(study, ended(3)) == [], "what is here is not fetched again"
    assert contents(began.path) == own


def test_a_result_that_the_store_does_not_have_is_told(store: FaultyStore, tmp_path: Path) -> None:
    study = study_in(tmp_path / "study")
    ran_elsewhere(tmp_path / "elsewhere", RemoteAddress.parse(ADDRESS) / "3", "stopped")

    lines = fetch_results(study, ended(3, arm=""), ended(4), ended(5, "failed"))

    assert [line.partition(",")[0] for line in lines] == [
        "The report lacks trial 3",
        "The report lacks trial prefix/4",
    ]
    assert f"{ADDRESS}/prefix/4 does not have its result" in lines[1]


def test_a_result_that_was_reused_on_another_machine_is_fetched_from_its_own_address(
    store: FaultyStore, tmp_path: Path
) -> None:
    study = study_in(tmp_path / "study")
    address = RemoteAddress.parse(f"{URL}/sweeps/older-fff000/8")
    ran = ran_elsewhere(tmp_path / "elsewhere", address)
    trial = ended(3, reused_from=str(tmp_path / "on another machine/8"), reused_address=str(address))
    assert trial.folder(study.folder) == tmp_path / "on another machine/8"

    assert fetch_results(study, trial) == []

    assert trial.folder(study.folder) == study.folder / "prefix/3"
    assert contents(study.folder / "prefix/3") == results_of(ran)
