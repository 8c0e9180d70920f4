"""WebNLG: linearised as in the paper's code, seen and unseen categories kept apart."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from ptl_prefix.data.task import Task
from ptl_prefix.data.tasks.webnlg import SEEN_CATEGORIES, WebNLG

RELEASED = Path(__file__).parents[1] / "released"


def webnlg(form: str = "webnlg", **changes: Any) -> WebNLG:
    return WebNLG(data_dir=str(RELEASED / form), **changes)


def test_the_rendering_equals_the_golden_one(check_golden: Callable[[Task], None]) -> None:
    check_golden(webnlg())


@pytest.mark.parametrize("form", ["webnlg_json", "webnlg_xml"])
def test_every_published_form_gives_the_same_examples(form: str) -> None:
    for split in ("train", "validation", "test"):
        expected, examples = webnlg().examples(split), webnlg(form).examples(split)
        # The files of the XML release are read in the order of their names.
        assert sorted(map(str, examples.remove_columns("example_id"))) == sorted(
            map(str, expected.remove_columns("example_id"))
        )
    assert webnlg(form).problems() == []


def test_training_and_validation_take_good_texts_only_and_the_test_takes_all() -> None:
    task = webnlg()

    assert task.examples("train")["targets"] == [
        ["Harbour Field serves Oldport in Westland and has a runway of 1830 metres."],
        ["Plums go into a plum dumpling.", "A plum dumpling has plums in it."],
    ]
    assert task.examples("validation")["targets"] == [["The Tall Column stands in Oldport."]]
    assert task.examples("test")["targets"][0][2] == "Oldport is lead by Ada Brook."


def test_every_example_knows_whether_its_category_is_seen() -> None:
    assert webnlg().examples("test")["group"] == ["seen", "unseen"]
    assert set(webnlg().examples("train")["group"]) == {"seen"}


def test_the_test_has_the_categories_asked_for() -> None:
    parts = {part: webnlg(test_categories=part) for part in ("all", "seen", "unseen")}

    examples = {part: [*task.examples("test")["group"]] for part, task in parts.items()}

    assert examples == {"all": ["seen", "unseen"], "seen": ["seen"], "unseen": ["unseen"]}
    assert len({task.fingerprint("test") for task in parts.values()}) == 3
    assert len({task.fingerprint("train") for task in parts.values()}) == 1
    assert parts["unseen"].examples("train").to_list() == parts["all"].examples("train").to_list()


def test_entries_of_several_categories_with_the_same_triples_stay_apart_in_training(tmp_path: Path) -> None:
    entry = '{"category": "%s", "triples": [["a", "b", "c"]], "lexs": ["%s"], "comments": ["good"]}\n'
    (tmp_path / "train.jsonl").write_text(entry % ("Food", "One.") + entry % ("City", "Two."))

    assert WebNLG(data_dir=str(tmp_path)).examples("train")["targets"] == [["One."], ["Two."]]


def test_the_hubs_dev_is_validation_and_what_its_test_repeats_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*arguments: Any, **named: Any) -> datasets.Dataset:
        assert arguments == ("webnlg-challenge/web_nlg", "webnlg_challenge_2017")
        assert named["revision"] == "refs/convert/parquet"
        texts = ["They eat.", f"Of {named['split']}."]
        lex = [{"text": t, "comment": ["good"] * len(t)} for t in ([], texts, texts)]
        triples = {"mtriple_set": [["a | b | c", "c | d | e"]]}
        return datasets.Dataset.from_dict(
            {"category": ["Artist"] * 3, "modified_triple_sets": [triples] * 3, "lex": lex}
        )

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    task = WebNLG(data_dir=None)

    assert task.examples("validation")["targets"][0] == ["They eat.", "Of dev."]
    assert task.examples("test").to_list() == [
        {
            "source": " | a : b : c | c : d : e",
            "targets": ["They eat.", "Of test."],
            "example_id": "test-0",
            "values": [],
            "group": "unseen",
        }
    ]


def test_a_missing_split_is_told_with_every_form_it_may_have(tmp_path: Path) -> None:
    problems = WebNLG(data_dir=str(tmp_path)).problems()

    assert len(problems) == 2
    assert "no train.json, and no train with one of .jsonl" in problems[0]
    assert "and no XML file below it with the split in its path; put it there." in problems[0]


def test_the_challenges_entries_load_whole(data_folder: Path) -> None:
    task = WebNLG(data_dir=str(data_folder / "data" / "webnlg"))

    rows = {split: list(task.rows(split)) for split in task.splits}
    train, validation, test = (task.examples(split) for split in ("train", "validation", "test"))

    assert [len(of_split) for of_split in rows.values()] == [6_940, 872, 1_862]
    # Five and one have no text that is good.
    assert [len(train), len(validation), len(test)] == [6_935, 871, 1_862]
    assert [test["group"].count(group) for group in ("seen", "unseen")] == [971, 891]
    assert {row.cells["category"] for row in rows["train"]} == SEEN_CATEGORIES
    assert sum(map(len, test["targets"])) == 4_928
    assert train[0]["source"] == ' | Aarhus_Airport : cityServed : "Aarhus, Denmark"'
