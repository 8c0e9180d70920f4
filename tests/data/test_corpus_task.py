"""Subsets to train on: which examples, and what changes them."""

from ptl_prefix.data.tasks.table_to_text import TableToText


def ids(**settings: int) -> list[str]:
    examples = TableToText(num_train=400, **settings).examples("train")
    return [*examples["example_id"]]


def test_a_subset_keeps_the_order_and_the_names_of_its_examples() -> None:
    whole = TableToText(num_train=400).examples("train").to_list()

    subset = TableToText(num_train=400, num_train_examples=40).examples("train").to_list()

    numbers = [int(row["example_id"].removeprefix("train-")) for row in subset]
    assert numbers == sorted(numbers)
    assert [whole[number] for number in numbers] == subset


def test_a_subset_is_drawn_from_everywhere() -> None:
    numbers = [int(name.removeprefix("train-")) for name in ids(num_train_examples=40)]

    assert min(numbers) < 100
    assert max(numbers) >= 300


def test_another_subset_seed_draws_others_and_has_another_fingerprint() -> None:
    one, other = (TableToText(num_train=400, num_train_examples=40, subset_seed=seed) for seed in (0, 1))

    assert one.examples("train").to_list() != other.examples("train").to_list()
    assert one.fingerprint("train") != other.fingerprint("train")


def test_without_a_subset_its_seed_decides_nothing() -> None:
    one, other = (TableToText(num_train=40, subset_seed=seed) for seed in (0, 1))

    assert one.fingerprint("train") == other.fingerprint("train")
    assert one.examples("train").to_list() == other.examples("train").to_list()
