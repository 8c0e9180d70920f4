"""DialogSum: a dialogue with one summary, or with three."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from ptl_prefix.data.task import SPLITS, Task
from ptl_prefix.data.tasks.dialogsum import DialogSum
from ptl_prefix.errors import DataError

RELEASED = Path(__file__).parents[1] / "released" / "dialogsum"


def test_the_rendering_equals_the_golden_one(check_golden: Callable[[Task], None]) -> None:
    check_golden(DialogSum(data_dir=str(RELEASED)))


def test_the_test_has_three_references() -> None:
    (targets,) = DialogSum(data_dir=str(RELEASED)).examples("test")["targets"]

    assert targets == [
        "#Person1# lost a key, which #Person2# sees.",
        "#Person2# knows where #Person1#'s key is.",
        "#Person1#'s key is in the door.",
    ]


def test_a_dialogue_without_a_summary_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"dialogue": "Hello.", "topic": "x"}\n')

    with pytest.raises(DataError, match=r"train.jsonl, line 1: each row must have the column 'summary'"):
        DialogSum(data_dir=str(tmp_path)).examples("train")


def test_the_hub_has_a_row_for_each_summary_of_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*arguments: Any, **named: Any) -> datasets.Dataset:
        assert arguments == ("knkarthick/dialogsum", None)
        assert named == {"split": "test", "revision": None}
        return datasets.Dataset.from_dict({"dialogue": ["Hello.", "Bye.", "Hello."], "summary": ["a", "b", "c"]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)

    examples = DialogSum(data_dir=None).examples("test")
    assert examples["targets"] == [["a", "c"], ["b"]]
    assert examples["example_id"] == ["test-0", "test-1"]


def test_the_released_dialogues_load_whole(data_folder: Path) -> None:
    task = DialogSum(data_dir=str(data_folder / "data" / "dialogsum"))

    splits = [task.examples(split) for split in SPLITS]

    assert [len(split) for split in splits] == [12_460, 500, 500]
    assert [{len(targets) for targets in split["targets"]} for split in splits] == [{1}, {1}, {3}]
