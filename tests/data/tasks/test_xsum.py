"""XSum: parallel text or rows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from ptl_prefix.data.task import Task
from ptl_prefix.data.tasks.xsum import XSum
from ptl_prefix.errors import DataError

RELEASED = Path(__file__).parents[1] / "released" / "xsum"


def test_the_rendering_equals_the_golden_one(check_golden: Callable[[Task], None]) -> None:
    check_golden(XSum(data_dir=str(RELEASED)))


def test_an_article_without_text_is_left_out() -> None:
    examples = XSum(data_dir=str(RELEASED)).examples("train")

    assert examples["targets"] == [
        ["The mill in Oldport will be rebuilt after a fire."],
        ["A whale has visited Oldport."],
    ]
    assert examples["example_id"] == ["train-0", "train-1"]


def test_rows_have_a_document_and_a_summary(tmp_path: Path) -> None:
    (tmp_path / "val.jsonl").write_text('{"document": "Snow fell.\\nIt stayed.", "summary": "Snow.", "id": "7"}\n')

    (row,) = XSum(data_dir=str(tmp_path)).examples("validation").to_list()

    assert (row["source"], row["targets"]) == ("Snow fell.\nIt stayed.", ["Snow."])


def test_the_fingerprint_follows_the_summaries_too(tmp_path: Path) -> None:
    (tmp_path / "train.source").write_text("Snow fell.\n")
    (tmp_path / "train.target").write_text("Snow.\n")
    before = XSum(data_dir=str(tmp_path)).fingerprint("train")

    (tmp_path / "train.target").write_text("Rain.\n")

    assert XSum(data_dir=str(tmp_path)).fingerprint("train") != before


def test_articles_without_their_summaries_are_named(tmp_path: Path) -> None:
    (tmp_path / "test.source").write_text("Snow fell.\n")

    for use in (XSum(data_dir=str(tmp_path)).examples, XSum(data_dir=str(tmp_path)).fingerprint):
        with pytest.raises(DataError, match=r"test.target must be a file, but does not exist"):
            use("test")


def test_the_hub_serves_where_there_is_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*arguments: Any, **named: Any) -> datasets.Dataset:
        assert arguments == ("EdinburghNLP/xsum", None)
        assert named == {"split": "validation", "revision": "refs/convert/parquet"}
        return datasets.Dataset.from_dict(
            {"document": ["Snow fell.", ""], "summary": ["Snow.", "Rain."], "id": ["1", "2"]}
        )

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)

    assert XSum(data_dir=None).examples("validation")["targets"] == [["Snow."]]
