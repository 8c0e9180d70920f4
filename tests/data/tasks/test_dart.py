"""DART: linearised as in the paper's code, every row an example."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from ptl_prefix.data.task import Task
from ptl_prefix.data.tasks.dart import DART
from ptl_prefix.errors import DataError

RELEASED = Path(__file__).parents[1] / "released" / "dart"


def test_the_rendering_equals_the_golden_one(check_golden: Callable[[Task], None]) -> None:
    check_golden(DART(data_dir=str(RELEASED)))


def test_only_the_property_is_written_in_lower_case() -> None:
    assert DART(data_dir=str(RELEASED)).examples("train")["source"][0] == (
        "Reed Hall : opened : 1921 | [TABLECONTEXT] : [title] : Halls of Westland"
    )


def test_empty_texts_are_no_references_and_a_row_without_others_is_left_out() -> None:
    assert DART(data_dir=str(RELEASED)).examples("train")["targets"] == [
        ["Reed Hall in Westland opened in 1921."],
        ["Oldport FC plays at Mill Lane.", "Mill Lane is the ground of Oldport FC."],
    ]


def test_rows_with_the_same_triples_stay_apart() -> None:
    examples = DART(data_dir=str(RELEASED)).examples("validation")

    assert examples["source"] == ["Tall Column : height_m : 41"] * 2
    assert examples["example_id"] == ["validation-0", "validation-1"]


def test_the_hub_has_annotations_by_column(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*arguments: Any, **named: Any) -> datasets.Dataset:
        assert arguments == ("Yale-LILY/dart", None)
        assert named == {"split": "validation", "revision": "refs/convert/parquet"}
        texts = {"source": ["x", "y"], "text": ["It opened.", "Open."]}
        return datasets.Dataset.from_dict({"tripleset": [[["Hall", "OPENED", "1921"]]], "annotations": [texts]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)

    (row,) = DART(data_dir=None).examples("validation").to_list()
    assert (row["source"], row["targets"]) == ("Hall : opened : 1921", ["It opened.", "Open."])


@pytest.mark.parametrize("annotations", ["null", '"text"', '[{"text": 1}]', '["text"]', '{"source": ["x"]}'])
def test_annotations_without_texts_are_named_with_their_line(tmp_path: Path, annotations: str) -> None:
    (tmp_path / "train.jsonl").write_text(f'{{"tripleset": [["a", "b", "c"]], "annotations": {annotations}}}\n')

    with pytest.raises(DataError, match=r"train.jsonl, line 1: 'annotations' must be a list of objects with a 'text'"):
        DART(data_dir=str(tmp_path)).examples("train")


def test_the_released_development_split_loads_whole(data_folder: Path) -> None:
    task = DART(data_dir=str(data_folder / "data" / "dart"))

    assert task.splits == ("validation",)
    assert len(task.examples("validation")) == 2_768
    with pytest.raises(DataError, match=r"has no dart-v1.1.1-full-train.json"):
        task.examples("train")
