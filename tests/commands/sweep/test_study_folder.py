"""The folder of a study: the copy of the user's configs, and the storage that it names."""

from pathlib import Path

import pytest
from support.study_schedulers import spec

from ptl_prefix.commands.sweep.study_folder import STORAGE_VARIABLE, _copy_yaml, open_study
from ptl_prefix.errors import SweepError


def test_only_configs_are_copied_and_never_the_copy_itself(tmp_path: Path) -> None:
    source = tmp_path / "work"
    files = {
        "sweeps/q.yaml": True,
        "task/mine.yml": True,
        "data.csv": False,
        ".git/config.yaml": False,
        "outputs/run/config.yaml": False,
        "outputs/run/events.jsonl": False,
        "outputs/sweeps/q/.begin.lock": False,
        "outputs/sweeps/q/configs/conf/train.yaml": False,
    }
    for name in files:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("a: 1")
    target = source / "outputs/sweeps/q/configs/own"

    _copy_yaml(source, target)

    copied = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    assert copied == {name for name, is_config in files.items() if is_config}


@pytest.fixture
def study_folder(tmp_path: Path) -> Path:
    spec(
        sampler={"_target_": "ptl_prefix.sweeping.samplers.Exhaustive", "seed": 0},
        pruner={"_target_": "ptl_prefix.sweeping.pruners.NoPruner"},
    ).write(tmp_path)
    (tmp_path / "where.yaml").write_text("storage: postgresql://me@here/studies\n")
    return tmp_path


def test_a_machine_may_reach_the_storage_by_another_url(study_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_study(study_folder).storage == "postgresql://me@here/studies"

    monkeypatch.setenv(STORAGE_VARIABLE, "postgresql://me:secret@there/studies")

    assert open_study(study_folder).storage == "postgresql://me:secret@there/studies"


def test_another_url_must_be_that_of_a_database(study_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STORAGE_VARIABLE, "mysql://me:secret@there/studies")

    with pytest.raises(SweepError) as refusal:
        open_study(study_folder)

    assert "PTL_PREFIX_STUDY_STORAGE must be sqlite:///PATH or postgresql://..." in str(refusal.value)
    assert "me:***@there" in str(refusal.value) and "secret" not in str(refusal.value)
