"""What every task promises."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ptl_prefix.data.example import FEATURES
from ptl_prefix.data.task import SPLITS, Task
from ptl_prefix.data.tasks.e2e_nlg import E2ENLG
from ptl_prefix.data.tasks.table_to_text import TableToText
from ptl_prefix.data.tasks.text_pairs import TextPairs
from ptl_prefix.settings import conf_dir


def e2e_nlg(folder: Path) -> Task:
    for split, file in enumerate(["trainset.csv", "devset.csv", "testset_w_refs.csv"]):
        rows = [f'"name[Mill {split}{row // 2}], eatType[pub]","Drink there, {row} times."' for row in range(6)]
        (folder / file).write_text("\n".join(["mr,ref", *rows]) + "\n")
    return E2ENLG(data_dir=str(folder))


def text_pairs(folder: Path) -> Task:
    (folder / "pairs.csv").write_text("source,target\n" + "".join(f"in {row},out {row}\n" for row in range(60)))
    return TextPairs(data_file=str(folder / "pairs.csv"), validation_fraction=0.2, test_fraction=0.2)


def table_to_text(folder: Path) -> Task:
    return TableToText(num_train=300, num_validation=100, num_test=100)


MAKERS: dict[str, Callable[[Path], Task]] = {
    "e2e_nlg": e2e_nlg,
    "text_pairs": text_pairs,
    "table_to_text": table_to_text,
}


@pytest.fixture(params=MAKERS)
def task(request: pytest.FixtureRequest, tmp_path: Path) -> Task:
    return MAKERS[request.param](tmp_path)


def test_every_config_of_a_task_is_tested_here() -> None:
    assert {path.stem for path in (conf_dir() / "task").glob("*.yaml")} == set(MAKERS)


def test_a_task_says_what_it_is(task: Task) -> None:
    assert task.name in MAKERS
    assert task.version
    assert task.metrics
    assert task.splits == SPLITS
    assert task.problems() == []


def test_examples_have_the_columns_a_name_and_a_target(task: Task) -> None:
    for split in SPLITS:
        examples = task.examples(split)
        assert examples.features == FEATURES
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
