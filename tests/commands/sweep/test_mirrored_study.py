"""The definition of a study reaches a machine that shares no disk, and the results come back."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from support.mirrored_folders import contents, small_run, write_now
from support.object_store import BUCKET, FaultyStore
from support.study_schedulers import spec

from ptl_prefix.artifacts.remote.address import RemoteAddress
from ptl_prefix.artifacts.remote.mirror import Mirror
from ptl_prefix.commands.sweep.mirrored_study import (
    fetch_missing_results,
    fetch_study,
    mirror_definition,
    study_address,
)
from ptl_prefix.commands.sweep.study_folder import STORAGE_FILE, Study, open_study
from ptl_prefix.errors import SweepError
from ptl_prefix.sweeping.scheduler import Scheduler

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
    folder = fetch_study(ADDRESS, tmp_path / "there")
    assert folder == tmp_path / "there/folder-of-the-study"
    assert contents(folder) == contents(study.folder)
    assert open_study(folder).spec == study.spec
    assert fetch_study(ADDRESS, tmp_path / "there") == folder


def test_a_study_whose_trials_are_in_a_file_is_not_joined_from_elsewhere(store: FaultyStore, tmp_path: Path) -> None:
    told: list[str] = []

    mirror_definition(study_in(tmp_path / "here", storage=None), told.append)

    assert "set hydra.sweeper.storage" in told[0]
    with pytest.raises(SweepError, match="must have its trials in PostgreSQL"):
        fetch_study(ADDRESS, tmp_path / "there")


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
    assert study_address(local) is None
    mirror_definition(local, told.append)
    assert told == []

    store.fault("error")
    mirror_definition(study_in(tmp_path / "mirrored"), told.append)
    assert told[0].startswith("No other machine can join this study: ")


def test_results_of_trials_elsewhere_are_fetched_for_the_report(store: FaultyStore, tmp_path: Path) -> None:
    study = study_in(tmp_path / "study")
    ran = small_run(tmp_path / "elsewhere")
    ran.record.write_text("{}")
    address = RemoteAddress.parse(ADDRESS) / "prefix" / "3"
    write_now(Mirror(ran.path, address, "run", ["sweeps", "small-abc123", "prefix", "3"]), ran)
    trial = SimpleNamespace(arm="prefix", number=3, state="finished", notes={})
    running = SimpleNamespace(arm="prefix", number=4, state="running", notes={})
    scheduler = cast(Scheduler, SimpleNamespace(folder=study.folder, all_trials=lambda: [trial, running]))

    fetch_missing_results(study, scheduler, pytest.fail)

    fetched = contents(study.folder / "prefix/3")
    assert fetched == {name: one for name, one in contents(ran.path).items() if not name.startswith("checkpoints/")}
    assert not (study.folder / "prefix/4").exists()
