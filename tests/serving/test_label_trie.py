"""A text that follows the tree is a label, and each label can be written."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptl_prefix.serving.label_trie import LabelTrie, label_ids

END = 0


@given(labels=st.lists(st.lists(st.integers(1, 4), max_size=5).map(tuple), min_size=1, unique=True), seed=st.integers())
def test_what_follows_the_tree_is_a_label_and_each_label_follows_it(labels: list[tuple[int, ...]], seed: int) -> None:
    tree, rng = LabelTrie((*label, END) for label in labels), random.Random(seed)

    written: list[int] = []
    while following := tree.next_ids(written):
        written.append(rng.choice(sorted(following)))
    assert tuple(written[:-1]) in labels and written[-1] == END
    assert tree.longest == max(map(len, labels)) + 1
    for label in labels:
        for place, one in enumerate((*label, END)):
            assert one in tree.next_ids(label[:place])


def test_a_label_that_begins_another_may_end_or_go_on() -> None:
    tree = LabelTrie([(7, END), (7, 8, END), (7, 8, END)])

    assert set(tree.next_ids([])) == {7}
    assert set(tree.next_ids([7])) == {8, END}
    assert set(tree.next_ids([7, END])) == set()
    with pytest.raises(KeyError):
        tree.next_ids([9])


def test_a_label_ends_with_the_first_id_that_ends_a_text() -> None:
    assert label_ids([4, 5, END, 6], [END]) == [4, 5, END]
