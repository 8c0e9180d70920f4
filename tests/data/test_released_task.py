"""Published data sets: the file of each split, and the messages about missing ones."""

from pathlib import Path
from typing import Any

import datasets
import pytest

from ptl_prefix.data.tasks.dialogsum import DialogSum
from ptl_prefix.data.tasks.scitldr import SciTLDR
from ptl_prefix.errors import DataError


def write(folder: Path, *names: str) -> str:
    for name in names:
        (folder / name).write_text(f'{{"dialogue": "In {name}.", "summary": "Out."}}\n')
    return str(folder)


def test_the_released_name_comes_first_and_then_any_name_of_the_split(tmp_path: Path) -> None:
    names = ["dialogsum.dev.jsonl", "validation.jsonl", "dev.jsonl", "val.jsonl"]
    task = DialogSum(data_dir=write(tmp_path, *names))

    for name in names:
        assert task.examples("validation")["source"] == [f"In {name}."]
        (tmp_path / name).unlink()
    assert task.splits == ()


def test_the_suffix_says_how_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("dialogue,summary\nHello.,A greeting.\n")

    assert DialogSum(data_dir=str(tmp_path)).examples("train")["targets"] == [["A greeting."]]


def test_a_missing_split_is_an_error_only_when_it_is_used(tmp_path: Path) -> None:
    task = DialogSum(data_dir=write(tmp_path, "train.jsonl", "dev.jsonl"))

    assert task.problems() == []
    assert task.splits == ("train", "validation")
    for use in (task.examples, task.fingerprint):
        with pytest.raises(
            DataError, match=r"must hold the test split .* no dialogsum.test.jsonl, and no test with one"
        ):
            use("test")


def test_all_missing_splits_of_a_training_are_reported_at_once(tmp_path: Path) -> None:
    train, validation = DialogSum(data_dir=write(tmp_path, "test.jsonl")).problems()

    assert f"{tmp_path} has no dialogsum.train.jsonl, and no train with one of .jsonl, " in train
    assert "has no dialogsum.dev.jsonl, and no validation or dev or val with one of .jsonl, " in validation


def test_a_missing_folder_is_one_problem(tmp_path: Path) -> None:
    (problem,) = DialogSum(data_dir=str(tmp_path / "gone")).problems()

    assert problem.startswith(f"`task.data_dir` must be a folder, but {tmp_path / 'gone'} is not")


def test_a_task_needs_a_folder_or_a_hub_name() -> None:
    task = DialogSum(data_dir=None, hub=None)

    assert "must have `task.data_dir` or `task.hub`, but both are null" in task.problems()[0]
    with pytest.raises(DataError, match="both are null"):
        task.examples("train")


def test_the_hub_serves_where_there_is_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*arguments: Any, **named: Any) -> datasets.Dataset:
        assert arguments == ("allenai/scitldr", "Abstract")
        assert named == {"split": "test", "revision": "refs/convert/parquet"}
        return datasets.Dataset.from_dict({"source": [["One.", "Two."]], "target": [["Both.", "All."]]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    task = SciTLDR(data_dir=None)

    assert task.problems() == []
    assert task.splits == ("train", "validation", "test")
    assert task.examples("test")[0]["source"] == "One. Two."
    assert task.examples("test")[0]["targets"] == ["Both.", "All."]
    assert len(task.fingerprint("test")) == 64


def test_the_fingerprint_follows_the_file(tmp_path: Path) -> None:
    task = DialogSum(data_dir=write(tmp_path, "train.jsonl"))
    before = task.fingerprint("train")

    (tmp_path / "train.jsonl").write_text('{"dialogue": "Other.", "summary": "Out."}\n')

    assert task.fingerprint("train") != before


def test_settings_are_checked_against_the_tasks_own_yaml() -> None:
    with pytest.raises(ValueError, match=r"`task.num_train_examples` must be >= 1, but is 0"):
        DialogSum(num_train_examples=0)
    with pytest.raises(ValueError, match=r"`task.folder` is not a setting"):
        DialogSum(folder="x")
