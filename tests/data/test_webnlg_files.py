"""WebNLG's published forms, which say the same."""

from pathlib import Path
from typing import Any

import pytest

from ptl_prefix.data.file_rows import FileRow
from ptl_prefix.data.task import Split
from ptl_prefix.data.webnlg_files import Entry, parse_entry, read_entries, xml_files
from ptl_prefix.errors import DataError

ENTRY = Entry("Food", [("Stew", "country", "Westland")], [("Stew is westland.", "toFix"), ("It is.", "good")])
TEXTS = [{"lex": text, "comment": comment} for text, comment in ENTRY.texts]
CELLS: dict[str, dict[str, Any]] = {
    "json_lines": {
        "id": "Id1",
        "category": "Food",
        "size": 1,
        "triples": [["Stew", "country", "Westland"]],
        "lexs": ["Stew is westland.", "It is. "],
        "comments": ["toFix", "good"],
    },
    "the_papers_json": {
        "17": {
            "category": "Food",
            "modifiedtripleset": [{"subject": "Stew", "property": "country", "object": "Westland"}],
            "lexicalisations": TEXTS,
        }
    },
    "the_hub": {
        "category": "Food",
        "modified_triple_sets": {"mtriple_set": [["Stew | country | Westland"]]},
        "lex": {"text": ["Stew is westland.", "It is."], "comment": ["toFix", "good"], "lid": ["Id1", "Id2"]},
    },
}
XML = """<benchmark><entries><entry category="Food" eid="Id1" size="1">
<originaltripleset><otriple>x | y | z</otriple></originaltripleset>
<modifiedtripleset><mtriple>Stew | country | Westland</mtriple></modifiedtripleset>
<lex comment="toFix" lid="Id1">Stew is westland.</lex><lex comment="good" lid="Id2">
It is.</lex></entry></entries></benchmark>"""


@pytest.mark.parametrize("form", CELLS)
def test_every_form_of_row_gives_the_same_entry(form: str) -> None:
    assert parse_entry(FileRow("here", CELLS[form])) == ENTRY


def test_xml_gives_the_same_entry(tmp_path: Path) -> None:
    (tmp_path / "x.xml").write_text(XML)

    (row,) = read_entries(tmp_path / "x.xml")

    assert parse_entry(row) == ENTRY
    assert row.place == f"{tmp_path / 'x.xml'}, entry 1 (Id1)"


def test_a_text_that_is_empty_is_none() -> None:
    cells = {**CELLS["json_lines"], "lexs": [" ", "It is."]}

    assert parse_entry(FileRow("here", cells)).texts == [("It is.", "good")]


@pytest.mark.parametrize(
    "change",
    [
        {"category": None},
        {"triples": "a"},
        {"triples": [["a", "b"]]},
        {"lexs": ["one"]},
        {"lexs": None},
        {"lexs": [1, 2]},
    ],
)
def test_a_row_that_holds_no_entry_is_named_with_its_place(change: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"^here: "):
        parse_entry(FileRow("here", {**CELLS["json_lines"], **change}))


@pytest.mark.parametrize("cells", [{}, {"category": "Food"}, {"1": {"category": "Food", "lexicalisations": []}}])
def test_a_row_of_another_kind_is_named_with_its_place(cells: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"here: an entry must have a category, triples, and texts"):
        parse_entry(FileRow("here", cells))


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("challenge/train/2triples/2triples_Airport_train_challenge.xml", "train"),
        ("dev/1triples/x.xml", "validation"),
        ("release/test/testdata_with_lex.xml", "test"),
        ("testdata_unseen_with_lex.xml", "test"),
        ("Airport_allSolutions_dev_challenge.xml", "validation"),
        ("train/develop_test.xml", "train"),
        ("test_of_the_train_set.xml", "test"),
    ],
)
def test_an_xml_file_belongs_to_the_split_in_its_path(tmp_path: Path, path: str, split: Split) -> None:
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).touch()

    found = {each: xml_files(tmp_path, each) for each in ("train", "validation", "test")}

    assert found == {each: [tmp_path / path] if each == split else [] for each in found}


def test_an_xml_file_of_no_split_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "latest_trains.xml").touch()

    assert [xml_files(tmp_path, split) for split in ("train", "validation", "test")] == [[], [], []]


def test_what_is_no_xml_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.xml").write_text("<benchmark>")

    with pytest.raises(DataError, match=r"x.xml must be XML, but .*; download it again"):
        list(read_entries(tmp_path / "x.xml"))
