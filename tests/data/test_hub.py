"""Data sets by hub name, with a stand-in for the hub."""

from typing import Any

import datasets
import pytest

from ptl_prefix.data.hub import read_hub_rows
from ptl_prefix.errors import DataError


def test_rows_come_from_the_split_config_and_revision_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def load_dataset(*arguments: Any, **named: Any) -> datasets.Dataset:
        calls.append((arguments, named, datasets.are_progress_bars_disabled()))
        return datasets.Dataset.from_dict({"source": ["a", "b"]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)

    rows = list(read_hub_rows("owner/name", config="small", revision="refs/convert/parquet", split="test"))

    assert calls == [(("owner/name", "small"), {"split": "test", "revision": "refs/convert/parquet"}, True)]
    assert [row.text("source") for row in rows] == ["a", "b"]
    assert rows[1].place == "owner/name (test), row 2"
    assert not datasets.are_progress_bars_disabled()


@pytest.mark.parametrize("error", [ConnectionError("offline"), FileNotFoundError("no such"), ValueError("no split")])
def test_a_hub_that_does_not_answer_is_an_error_with_a_way_out(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def load_dataset(*arguments: Any, **named: Any) -> datasets.Dataset:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)

    with pytest.raises(
        DataError, match=rf"test split of 'owner/name' must be reachable .* \({error}\); give local files"
    ):
        list(read_hub_rows("owner/name", config=None, revision=None, split="test"))


def test_class_labels_are_read_as_names(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*arguments: Any, **named: Any) -> datasets.Dataset:
        features = datasets.Features(
            {"label": datasets.ClassLabel(names=["no", "yes"]), "number": datasets.Value("int8")}
        )
        return datasets.Dataset.from_dict({"label": [1, 0], "number": [1, 0]}, features=features)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)

    rows = list(read_hub_rows("owner/name", config=None, revision=None, split="test"))

    assert [row.cells for row in rows] == [{"label": "yes", "number": 1}, {"label": "no", "number": 0}]
