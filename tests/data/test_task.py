"""What every task promises."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.made_up_studies import PROMPT, write_untaught_study
from support.tiny_runs import embedded_tokenizer

from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.data.example import example_features
from ptl_prefix.data.task import SPLITS, Task
from ptl_prefix.data.tasks.banking77 import Banking77
from ptl_prefix.data.tasks.chat import Chat
from ptl_prefix.data.tasks.dart import DART
from ptl_prefix.data.tasks.dialogsum import DialogSum
from ptl_prefix.data.tasks.distillation import Distillation
from ptl_prefix.data.tasks.e2e_nlg import E2ENLG
from ptl_prefix.data.tasks.scitldr import SciTLDR
from ptl_prefix.data.tasks.table_to_text import TableToText
from ptl_prefix.data.tasks.text_pairs import TextPairs
from ptl_prefix.data.tasks.webnlg import WebNLG
from ptl_prefix.data.tasks.xsum import XSum
from ptl_prefix.errors import DataError
from ptl_prefix.settings import conf_dir

RELEASED = Path(__file__).parent / "released"


def e2e_nlg(folder: Path, **changes: Any) -> Task:
    for split, file in enumerate(["trainset.csv", "devset.csv", "testset_w_refs.csv"]):
        rows = [f'"name[Mill {split}{row // 2}], eatType[pub]","Drink there, {row} times."' for row in range(6)]
        (folder / file).write_text("\n".join(["mr,ref", *rows]) + "\n")
    return E2ENLG(data_dir=str(folder), **changes)


def text_pairs(folder: Path, **changes: Any) -> Task:
    (folder / "pairs.csv").write_text("source,target\n" + "".join(f"in {row},out {row}\n" for row in range(60)))
    return TextPairs(data_file=str(folder / "pairs.csv"), validation_fraction=0.2, test_fraction=0.2, **changes)


def chat(folder: Path, **changes: Any) -> Task:
    rows = [
        {"instruction": f"in {row}", "input": "" if row % 2 else "more", "output": f"out {row}"} for row in range(60)
    ]
    (folder / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Chat(data_file=str(folder / "chats.jsonl"), validation_fraction=0.2, test_fraction=0.2, **changes)


def table_to_text(folder: Path, **changes: Any) -> Task:
    return TableToText(num_train=300, num_validation=100, num_test=100, **changes)


def distillation(folder: Path, **changes: Any) -> Task:
    write_untaught_study(folder / "study", Prompter(embedded_tokenizer(), PROMPT))
    rows = [{"question": f"Who built tower {row}?", "answers": [f"Miner {row}.", "Nobody."]} for row in range(6)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Distillation(self_study=str(folder / "study"), questions_file=str(folder / "questions.jsonl"), **changes)


def released(task: Callable[..., Task], name: str, **settings: Any) -> Callable[..., Task]:
    """From a small folder in the form of the release."""
    return lambda folder, **changes: task(data_dir=str(RELEASED / name), **settings, **changes)


MAKERS: dict[str, Callable[..., Task]] = {
    "chat": chat,
    "banking77": released(Banking77, "banking77", validation_fraction=0.3),
    "dart": released(DART, "dart"),
    "distillation": distillation,
    "dialogsum": released(DialogSum, "dialogsum"),
    "e2e_nlg": e2e_nlg,
    "scitldr": released(SciTLDR, "scitldr"),
    "table_to_text": table_to_text,
    "text_pairs": text_pairs,
    "webnlg": released(WebNLG, "webnlg"),
    "xsum": released(XSum, "xsum"),
}


@pytest.fixture(params=MAKERS)
def task(request: pytest.FixtureRequest, tmp_path: Path) -> Task:
    return MAKERS[request.param](tmp_path)


def test_every_config_of_a_task_is_tested_here() -> None:
    assert {path.stem for path in (conf_dir() / "task").glob("*.yaml")} == set(MAKERS)


def test_a_task_says_what_it_is(task: Task) -> None:
    assert task.name in MAKERS
    assert task.version
    assert task.licence or task.name in ("chat", "distillation", "text_pairs")
    assert task.metrics
    assert task.splits == SPLITS
    assert task.problems() == []


def test_an_instruction_is_a_sentence_that_no_input_has(task: Task) -> None:
    if task.name in ("chat", "distillation", "text_pairs"):
        assert task.instruction is None
        return
    assert task.instruction
    assert task.instruction.endswith(".")
    rows = [row for split in SPLITS for row in task.examples(split)]
    assert not any(task.instruction in text for row in rows for text in (row["source"], *row["targets"]))


def test_examples_have_the_columns_a_name_and_a_target(task: Task) -> None:
    for split in SPLITS:
        examples = task.examples(split)
        assert examples.features == example_features()
        assert len(examples) > 0
        assert len(set(examples["example_id"])) == len(examples)
        assert all(targets and all(targets) for targets in examples["targets"])
        assert all(examples["source"])


def test_no_source_holds_its_target(task: Task) -> None:
    for split in SPLITS:
        for row in task.examples(split):
            assert not any(target in row["source"] for target in row["targets"])


def test_no_source_is_in_two_splits(task: Task) -> None:
    sources = [set(task.examples(split)["source"]) for split in SPLITS]

    assert len(set.union(*sources)) == sum(map(len, sources))


def test_examples_and_fingerprints_are_the_same_every_time(task: Task, tmp_path: Path) -> None:
    again = MAKERS[task.name](tmp_path)

    for split in SPLITS:
        assert again.examples(split).to_list() == task.examples(split).to_list()
        assert again.fingerprint(split) == task.fingerprint(split)
    assert len({task.fingerprint(split) for split in SPLITS}) == 3


def test_a_label_set_is_closed(task: Task) -> None:
    if task.label_set is not None:
        targets = {target for split in SPLITS for targets in task.examples(split)["targets"] for target in targets}
        assert targets <= set(task.label_set)
        assert len(set(task.label_set)) == len(task.label_set)


def test_training_subsets_that_share_a_seed_are_nested(task: Task, tmp_path: Path) -> None:
    make = MAKERS[task.name]
    whole = task.examples("train").to_list()

    subsets = [make(tmp_path, num_train_examples=n + 1).examples("train").to_list() for n in range(min(6, len(whole)))]

    assert [len(subset) for subset in subsets] == list(range(1, len(subsets) + 1))
    for smaller, larger in zip(subsets, [*subsets[1:], whole], strict=True):
        assert [row for row in larger if row in smaller] == smaller
    some = make(tmp_path, num_train_examples=1)
    assert some.fingerprint("train") != task.fingerprint("train")
    for split in SPLITS[1:]:
        assert some.examples(split).to_list() == task.examples(split).to_list()
        assert some.fingerprint(split) == task.fingerprint(split)


def test_a_subset_larger_than_the_split_is_refused_with_what_there_is(task: Task, tmp_path: Path) -> None:
    there_are = len(task.examples("train"))
    all_of_them = MAKERS[task.name](tmp_path, num_train_examples=there_are)
    too_many = MAKERS[task.name](tmp_path, num_train_examples=there_are + 1)

    assert all_of_them.examples("train").to_list() == task.examples("train").to_list()
    with pytest.raises(DataError, match=rf"at most the {there_are} training examples .* is {there_are + 1}; lower it"):
        too_many.examples("train")
