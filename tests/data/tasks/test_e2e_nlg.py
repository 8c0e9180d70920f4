"""E2E: linearised as in the paper's code, every reference kept."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from ptl_prefix.data.task import Task
from ptl_prefix.data.tasks.e2e_nlg import E2ENLG, linearise
from ptl_prefix.errors import DataError

ALL_ATTRIBUTES = (
    "name[The Mill], eatType[pub], food[English], priceRange[more than £30], customer rating[5 out of 5], "
    "area[riverside], familyFriendly[yes], near[Café Rouge]"
)


def write(folder: Path, **files: list[tuple[str, str]]) -> str:
    """The three files; those not given hold one pair."""
    for name in ("trainset", "devset", "testset_w_refs"):
        pairs = files.get(name, [(f"name[Only {name}]", "One.")])
        lines = ["mr,ref", *(f'"{meaning}","{reference}"' for meaning, reference in pairs)]
        (folder / f"{name}.csv").write_text("\ufeff" + "\r\n".join(lines) + "\r\n", encoding="utf-8")
    return str(folder)


def test_attributes_are_renamed_as_in_the_papers_files() -> None:
    assert linearise(ALL_ATTRIBUTES, "here") == (
        "name : The Mill | Type : pub | food : English | price : more than £30 | customer rating : 5 out of 5 | "
        "area : riverside | family friendly : yes | near : Café Rouge"
    )


def test_the_rendering_equals_the_golden_one(tmp_path: Path, check_golden: Callable[[Task], None]) -> None:
    folder = write(
        tmp_path,
        trainset=[(ALL_ATTRIBUTES, "The Mill is an English pub."), ("name[Blue Star]", "Blue Star is a place.")],
        testset_w_refs=[("name[The Mill], area[riverside]", "One."), ("name[The Mill], area[riverside]", "Two, say.")],
    )

    check_golden(E2ENLG(data_dir=folder))


def test_references_of_one_input_come_together_wherever_they_stand(tmp_path: Path) -> None:
    pairs = [("name[A]", "a1"), ("name[B]", "b1"), ("name[A]", "a2"), ("name[A]", "a1")]

    examples = E2ENLG(data_dir=write(tmp_path, testset_w_refs=pairs)).examples("test")

    assert examples["source"] == ["name : A", "name : B"]
    assert examples["targets"] == [["a1", "a2", "a1"], ["b1"]]
    assert examples["example_id"] == ["test-0", "test-1"]


@pytest.mark.parametrize(
    "meaning", ["", "name", "name[A] eatType[pub]", "name[A], colour[red]", "name[A, near[B]", "name[]", "name[A],"]
)
def test_a_malformed_input_is_named_with_its_line(tmp_path: Path, meaning: str) -> None:
    folder = write(tmp_path, devset=[("name[A]", "fine"), (meaning, "text")])

    with pytest.raises(DataError, match=r"devset.csv, line 3"):
        E2ENLG(data_dir=folder).examples("validation")


def test_an_empty_reference_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"trainset.csv, line 2: 'ref' must be text"):
        E2ENLG(data_dir=write(tmp_path, trainset=[("name[A]", " ")])).examples("train")


def test_the_hub_serves_where_there_is_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*arguments: Any, **named: Any) -> datasets.Dataset:
        assert arguments == ("tuetschek/e2e_nlg", None)
        assert named == {"split": "validation", "revision": "refs/convert/parquet"}
        return datasets.Dataset.from_dict({"meaning_representation": ["name[A]"] * 2, "human_reference": ["a1", "a2"]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    task = E2ENLG(data_dir=None)

    assert task.problems() == []
    assert task.examples("validation").to_list() == [
        {"source": "name : A", "targets": ["a1", "a2"], "example_id": "validation-0", "values": [], "group": ""}
    ]
    assert len(task.fingerprint("validation")) == 64


def test_the_fingerprint_follows_the_file(tmp_path: Path) -> None:
    before = E2ENLG(data_dir=write(tmp_path)).fingerprint("train")

    after = E2ENLG(data_dir=write(tmp_path, trainset=[("name[A]", "other")]))

    assert after.fingerprint("train") != before


def test_the_released_files_load_whole(data_folder: Path) -> None:
    task = E2ENLG(data_dir=str(data_folder / "data" / "e2e"))

    splits = [task.examples(split) for split in ("train", "validation", "test")]

    assert [sum(map(len, split["targets"])) for split in splits] == [42_061, 4_672, 4_693]
    assert [len(split) for split in splits] == [4_862, 547, 630]
    assert splits[0][0]["source"] == (
        "name : The Vaults | Type : pub | price : more than £30 | customer rating : 5 out of 5 | near : Café Adriatic"
    )
    sources = [set(split["source"]) for split in splits]
    assert len(set.union(*sources)) == 4_862 + 547 + 630
