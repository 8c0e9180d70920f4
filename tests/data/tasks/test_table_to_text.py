"""The built-in task: generated from a seed, and large enough for a first run."""

from collections.abc import Callable

import pytest

from ptl_prefix.data.task import SPLITS, Task
from ptl_prefix.data.tasks.table_to_text import TableToText


def test_the_rendering_equals_the_golden_one(check_golden: Callable[[Task], None]) -> None:
    check_golden(TableToText())


def test_there_are_as_many_examples_as_asked_for_and_none_twice() -> None:
    # Enough that drawing without looking would repeat the smaller tables.
    task = TableToText(num_train=20_000, num_validation=30, num_test=20)

    sources = [task.examples(split)["source"] for split in SPLITS]

    assert [len(split) for split in sources] == [20_000, 30, 20]
    assert len({source for split in sources for source in split}) == 20_050


def test_a_faithful_target_mentions_every_value() -> None:
    for row in TableToText(num_train=300).examples("train"):
        assert all(value in row["targets"][0] for value in row["values"])
        assert row["source"].count(" : ") == len(row["values"])


def test_evaluation_accepts_every_way_to_say_it_and_training_shows_one_of_them() -> None:
    task = TableToText(num_train=300, num_validation=300)

    train, validation = task.examples("train"), task.examples("validation")

    assert {len(targets) for targets in train["targets"]} == {1}
    assert {len(targets) for targets in validation["targets"]} == {2}
    beginnings = [targets[0].startswith("In ") for targets in train["targets"]]
    assert 100 < sum(beginnings) < 200


def test_the_seed_decides_the_tables() -> None:
    one, other = TableToText(num_train=50), TableToText(num_train=50, data_seed=1)

    assert one.examples("test")["source"] != other.examples("test")["source"]
    assert one.fingerprint("test") != other.fingerprint("test")


def test_more_training_examples_leave_the_test_as_it_is() -> None:
    few, many = TableToText(num_train=10), TableToText(num_train=100)

    assert few.examples("test").to_list() == many.examples("test").to_list()
    assert few.examples("train").to_list() == many.examples("train").to_list()[:10]


def test_more_than_there_are_is_refused_before_anything_is_made() -> None:
    (problem,) = TableToText(num_train=10**12).problems()

    assert f"but {10**12 + 400} are wanted" in problem


def test_a_split_needs_an_example() -> None:
    with pytest.raises(ValueError, match=r"`task.num_test` must be >= 1"):
        TableToText(num_test=0)
