"""The user's own files: formats, one or several targets, split files or fractions."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from ptl_prefix.data.task import SPLITS, Split, Task
from ptl_prefix.data.tasks.text_pairs import TextPairs
from ptl_prefix.errors import DataError


def json_lines(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def pairs_file(path: Path, number: int) -> str:
    """Sources of which every third is the one before."""
    return json_lines(path, [{"source": f"in {row - (row % 3 == 2)}", "target": f"out {row}"} for row in range(number)])


def test_the_rendering_equals_the_golden_one(tmp_path: Path, check_golden: Callable[[Task], None]) -> None:
    files: dict[str, Any] = {
        f"{split}_file": json_lines(
            tmp_path / f"{split}.jsonl",
            [
                {"source": ["First.", f"Of {split}."], "target": ["Café <|endoftext|>", "or so"]},
                {"source": "b", "target": "c"},
            ],
        )
        for split in SPLITS
    }

    check_golden(TextPairs(**files))


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv", "parquet"])
def test_every_format_gives_the_same_examples_in_the_files_order(tmp_path: Path, suffix: str) -> None:
    rows = {"question": ["b?", "a?", "NA"], "answer": ["two, or so", "one", "null"]}
    path = tmp_path / f"x.{suffix}"
    table = datasets.Dataset.from_dict(rows).to_pandas()
    if suffix == "jsonl":
        table.to_json(path, orient="records", lines=True)
    elif suffix == "parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False, sep="," if suffix == "csv" else "\t")

    task = TextPairs(train_file=str(path), source_column="question", target_columns=["answer"])

    assert task.problems() == []
    assert task.examples("train").to_list() == [
        {"source": source, "targets": [target], "example_id": f"train-{index}", "values": [], "group": ""}
        for index, (source, target) in enumerate(zip(rows["question"], rows["answer"], strict=True))
    ]


def test_targets_come_from_several_columns_and_from_lists(tmp_path: Path) -> None:
    path = json_lines(tmp_path / "x.jsonl", [{"source": ["One.", "Two."], "a": "x", "b": ["y", " z "]}])

    examples = TextPairs(train_file=path, target_columns=["a", "b"]).examples("train")

    assert examples["source"] == ["One. Two."]
    assert examples["targets"] == [["x", "y", "z"]]


def test_a_missing_split_is_an_error_only_when_it_is_used(tmp_path: Path) -> None:
    task = TextPairs(train_file=pairs_file(tmp_path / "x.jsonl", 3))

    assert task.problems() == []
    assert task.splits == ("train",)
    assert len(task.examples("train")) == 3
    for use in (task.examples, task.fingerprint):
        with pytest.raises(DataError, match=r"must have a test split.*`task.test_file`"):
            use("test")


def test_fractions_divide_sources_not_pairs(tmp_path: Path) -> None:
    file = pairs_file(tmp_path / "x.jsonl", 900)
    task = TextPairs(data_file=file, validation_fraction=0.2, test_fraction=0.1)

    splits = {split: task.examples(split) for split in SPLITS}

    targets = [target for examples in splits.values() for target in examples["targets"]]
    sources = [set(examples["source"]) for examples in splits.values()]
    assert sorted(targets) == sorted([f"out {row}"] for row in range(900))
    assert len(set.union(*sources)) == sum(map(len, sources)) == 600
    assert 0.65 < len(sources[0]) / 600 < 0.75
    assert 0.15 < len(sources[1]) / 600 < 0.25
    assert splits["train"]["example_id"][:2] == ["train-0", "train-1"]


def test_more_pairs_move_none_and_another_seed_moves_some(tmp_path: Path) -> None:
    def sources(number: int, **changes: int) -> set[str]:
        file = pairs_file(tmp_path / "x.jsonl", number)
        return set(TextPairs(data_file=file, validation_fraction=0.2, **changes).examples("validation")["source"])

    assert sources(100) < sources(300)
    assert not sources(100, split_seed=1) < sources(300)


def test_a_fraction_of_nothing_is_no_split(tmp_path: Path) -> None:
    task = TextPairs(data_file=pairs_file(tmp_path / "x.jsonl", 9), validation_fraction=0.5)

    assert task.splits == ("train", "validation")


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    task = TextPairs(
        train_file="gone.csv", data_file=str(tmp_path / "x.xlsx"), validation_fraction=0.5, test_fraction=0.5
    )

    problems = task.problems()

    assert len(problems) == 4
    assert "must have exactly one of" in problems[0]
    assert "but has files for the splits and data_file" in problems[0]
    assert "`task.validation_fraction` + `task.test_fraction` must be < 1" in problems[1]
    assert problems[2].startswith("`task.train_file`: gone.csv must be a file")
    assert problems[3].startswith("`task.data_file`: ")
    assert "must end in one of" in problems[3]
    assert "but has none" in TextPairs().problems()[0]


@pytest.mark.parametrize(
    ("content", "mistake"),
    [
        ("source,target\na,b\n,c\n", "line 3: 'source' must be text"),
        ("source,target\na,b\nc, \n", "line 3: 'target' must be text"),
        ("source,goal\na,b\n", "line 2: each row must have the column 'target', but this one has source, goal"),
        ("source,target\na,b,c\n", "line 2: each row must have the 2 columns"),
    ],
)
def test_a_bad_row_is_named_with_file_and_line(tmp_path: Path, content: str, mistake: str) -> None:
    (tmp_path / "x.csv").write_text(content)

    with pytest.raises(DataError, match=f"x.csv, {mistake}"):
        TextPairs(train_file=str(tmp_path / "x.csv")).examples("train")


def test_columns_may_be_called_by_numbers_and_labels_may_be_numbers(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("0,1\na,b\n")
    labels = json_lines(tmp_path / "x.jsonl", [{"source": "a", "target": 1}, {"source": "b", "target": True}])

    by_number = TextPairs(train_file=str(tmp_path / "x.csv"), source_column=0, target_columns=[1])
    task = TextPairs(train_file=labels)

    assert by_number.examples("train")["targets"] == [["b"]]
    assert by_number.notes == ()
    assert task.examples("train")["targets"] == [["1"], ["true"]]
    assert task.notes == ("numbers and booleans in the column 'target' are read as their text",)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"encoding": "utf-99"}, "`task.encoding` must be a text encoding"),
        ({"encoding": "base64"}, "`task.encoding` must be a text encoding"),
        ({"separator": "::"}, "`task.separator` must be one character"),
        ({"separator": '"'}, "`task.separator` must be one character"),
        ({"separator": ";", "train_file": "x.jsonl"}, "`task.separator` must be null unless a file is .csv or .tsv"),
        ({"separator": "\\t", "encoding": "utf-16"}, None),
    ],
)
def test_the_format_of_text_is_checked_before_it_is_used(
    tmp_path: Path, settings: dict[str, str], problem: str | None
) -> None:
    for name in ("x.csv", "x.jsonl"):
        (tmp_path / name).write_text("")
    file = settings.pop("train_file", "x.csv")

    found = TextPairs(train_file=str(tmp_path / file), **settings).problems()

    assert [one.startswith(problem) for one in found] == [True] if problem else found == []


def test_a_long_file_is_never_wholly_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"source": "a", "target": "b"}\n' + b"\xff\n")

    rows = TextPairs(train_file=str(path)).rows_of("train")

    assert next(rows) == {"source": "a", "targets": ["b"], "example_id": "train-0", "values": [], "group": ""}


def test_a_data_set_on_the_hub_is_read_by_split(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*arguments: Any, split: Split, revision: str) -> datasets.Dataset:
        assert (arguments, revision) == (("owner/name", "small"), "main")
        return datasets.Dataset.from_dict({"document": [f"{split} in"], "summary": ["out"]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    columns: dict[str, Any] = {"source_column": "document", "target_columns": ["summary"]}
    task = TextPairs(hub="owner/name", hub_config="small", hub_revision="main", **columns)

    assert task.problems() == []
    assert task.splits == SPLITS
    assert task.examples("test")["source"] == ["test in"]
    assert task.fingerprint("test") != task.fingerprint("train")


@pytest.mark.parametrize(
    "change",
    [
        {"source_column": "target"},
        {"target_columns": ["source"]},
        {"validation_fraction": 0.3},
        {"split_seed": 1},
        {"encoding": "cp1252"},
        {"prompt_template": "{source}"},
        {"label_column": "target"},
    ],
)
def test_settings_that_decide_examples_decide_the_fingerprint(tmp_path: Path, change: dict[str, Any]) -> None:
    file = pairs_file(tmp_path / "x.jsonl", 9)

    assert TextPairs(data_file=file, **change).fingerprint("train") != TextPairs(data_file=file).fingerprint("train")


def test_a_training_file_without_a_validation_file_is_divided_by_content(tmp_path: Path) -> None:
    file = pairs_file(tmp_path / "x.jsonl", 300)
    lines = Path(file).read_text().splitlines(keepends=True)
    (tmp_path / "y.jsonl").write_text("".join(reversed(lines)))
    task = TextPairs(train_file=file, validation_fraction=0.2, test_file=file)
    other = TextPairs(train_file=str(tmp_path / "y.jsonl"), validation_fraction=0.2)

    train, validation = task.examples("train"), task.examples("validation")

    assert (task.problems(), task.splits) == ([], SPLITS)
    assert (len(train) + len(validation), len(task.examples("test"))) == (300, 300)
    assert not set(train["source"]) & set(validation["source"])
    assert sorted(other.examples("validation")["targets"]) == sorted(validation["targets"])
    assert task.notes == (f"{len(validation)} of 300 pairs are the validation split, chosen by a hash of their source",)
    undivided = TextPairs(train_file=file, validation_file=file)
    assert len({one.fingerprint(split) for one in (task, undivided) for split in SPLITS[:2]}) == 4
    assert task.fingerprint("test") == TextPairs(test_file=file).fingerprint("test")


def test_a_validation_split_has_one_origin(tmp_path: Path) -> None:
    file = pairs_file(tmp_path / "x.jsonl", 9)

    both = TextPairs(train_file=file, validation_file=file, validation_fraction=0.3)
    # The default of earlier versions, which their runs' configs hold.
    earlier = TextPairs(train_file=file, validation_file=file, validation_fraction=0.1)

    assert "`task.validation_fraction` must be null where the validation split has a file" in both.problems()[0]
    assert (earlier.problems(), len(earlier.examples("train"))) == ([], 9)
    assert "has no effect" in earlier.notes[0]
    assert earlier.fingerprint("train") == TextPairs(train_file=file).fingerprint("train")
    assert "null with `task.hub`" in TextPairs(hub="owner/name", validation_fraction=0.3).problems()[0]


def test_a_folder_of_splits_gives_those_that_are_not_named(tmp_path: Path) -> None:
    rows = [datasets.Dataset.from_dict({"source": [f"{split} in"], "target": ["out"]}) for split in SPLITS]
    whole, partial = str(tmp_path / "whole"), str(tmp_path / "partial")
    datasets.DatasetDict(dict(zip(SPLITS, rows, strict=True))).save_to_disk(whole)
    datasets.DatasetDict({"train": rows[0], "dev": rows[1]}).save_to_disk(partial)

    for task in (TextPairs(data_file=whole), TextPairs(train_file=whole)):
        assert (task.problems(), task.splits) == ([], SPLITS)
        assert [task.examples(split)["source"] for split in SPLITS] == [[f"{split} in"] for split in SPLITS]
    named = TextPairs(train_file=partial, validation_file=f"{partial}/dev")
    assert named.examples("validation")["source"] == ["validation in"]
    assert TextPairs(train_file=partial, validation_fraction=0.3).splits == ("train", "validation")
    assert "`task.validation_file`: " in TextPairs(train_file=whole, validation_file=partial).problems()[0]
    assert TextPairs(train_file=partial).splits == ("train",)
    assert "must be null where" in TextPairs(data_file=whole, validation_fraction=0.3).problems()[0]
    assert "`task.separator` must be null" in TextPairs(data_file=whole, separator=";").problems()[0]


def test_a_source_may_be_made_of_columns(tmp_path: Path) -> None:
    rows = [{"title": f"T {row}", "body": ["a", "b"], "target": "out"} for row in range(60)]
    file = json_lines(tmp_path / "x.jsonl", rows)

    task = TextPairs(data_file=file, prompt_template="{title}\n{{{body}}}")
    other = TextPairs(data_file=file, prompt_template="Of {title}: {body}")
    of_column = TextPairs(data_file=file, source_column="title", prompt_template="Summarise: {source}")

    assert task.problems() == other.problems() == of_column.problems() == []
    assert task.examples("train")["source"][0] == "T 0\n{a b}"
    assert of_column.examples("train")["source"][0] == "Summarise: T 0"
    held_out = [source.split()[1] for source in task.examples("validation")["source"]]
    assert held_out == [source.split()[2].strip(":") for source in other.examples("validation")["source"]] != []
    assert task.fingerprint("train") != other.fingerprint("train")
    with pytest.raises(DataError, match=r"column 'x', .* has title, body, target; name one of these in `task.pr"):
        TextPairs(train_file=file, prompt_template="{x}").examples("train")
    problems = TextPairs(data_file=file, source_column="title", prompt_template="{source} {body}").problems()
    assert "must name no column but {source} beside `task.source_column`, but names source, body" in problems[0]
    assert (
        "`task.prompt_template` must have nothing but"
        in TextPairs(data_file=file, prompt_template="{a.b}").problems()[0]
    )


def test_labels_are_a_closed_set_of_the_training_split(tmp_path: Path) -> None:
    rows: list[Any] = [{"source": f"in {row}", "label": label} for row, label in enumerate([2, 10, True, 2])]
    train = json_lines(tmp_path / "train.jsonl", rows)
    files: dict[str, Any] = {"train_file": train, "validation_file": json_lines(tmp_path / "dev.jsonl", rows[1:3])}

    task = TextPairs(**files, label_column="label")
    validation = task.fingerprint("validation")

    assert (task.problems(), task.label_set) == ([], ("10", "2", "true"))
    assert TextPairs(train_file=train, target_columns=["label"]).label_set is None
    assert task.examples("validation")["targets"] == [["10"], ["true"]]
    assert task.notes == ("numbers and booleans in the column 'label' are read as their text",)
    json_lines(tmp_path / "train.jsonl", rows[1:])
    assert TextPairs(**files, label_column="label").fingerprint("validation") == validation
    json_lines(tmp_path / "train.jsonl", rows[:2])
    fewer = TextPairs(**files, label_column="label")
    assert fewer.fingerprint("validation") != validation
    with pytest.raises(DataError, match=r"the validation split .* in the training split, but 'true' \(of 'in 2'\)"):
        fewer.examples("validation")
    both = TextPairs(train_file=train, label_column="label", target_columns=["label"])
    assert "`task.target_columns` must be left out beside `task.label_column`" in both.problems()[0]


def test_a_target_column_is_asked_for() -> None:
    with pytest.raises(ValueError, match=r"`task.target_columns`"):
        TextPairs(target_columns=[])
    with pytest.raises(ValueError, match=r"`task.target_columns` must be a list of str or int, but is 'target'"):
        TextPairs(target_columns="target")


def test_summaries_with_several_targets_load_whole(data_folder: Path) -> None:
    folder = data_folder / "data" / "scitldr"
    files = {
        f"{split}_file": str(folder / f"{name}.jsonl")
        for split, name in zip(SPLITS, ("train", "dev", "test"), strict=True)
    }

    task = TextPairs(**files)

    assert [len(task.examples(split)) for split in SPLITS] == [1_992, 619, 618]
    assert max(map(len, task.examples("test")["targets"])) > 1
