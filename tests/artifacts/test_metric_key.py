"""Keys of metrics: one meaning for each, whatever groups are called."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptl_prefix.artifacts.metric_key import adapted_key, bare_key, is_bare, parts_of, split_group, with_group

METRICS = ["ter", "ter_webnlg", "loss"]
GROUPS = ["", "webnlg", "low", "before", "_before", "a/b", "x_before", "[y]", " "]


def test_no_two_values_share_a_key() -> None:
    keys = [f"test/{with_group(metric, group)}" for metric, group in itertools.product(METRICS, GROUPS)]
    every = [*keys, *map(bare_key, keys)]

    assert len(set(every)) == len(every)
    assert [is_bare(key) for key in every] == [False] * len(keys) + [True] * len(keys)
    assert [adapted_key(key) for key in every] == keys + keys


@given(st.sampled_from(METRICS), st.text())
def test_a_key_is_taken_apart_as_it_was_put_together(metric: str, group: str) -> None:
    name = with_group(metric, group)

    assert split_group(name) == (metric, group)
    assert parts_of(f"test/{name}") == ("test", metric, group)
    assert parts_of(bare_key(f"test/{name}")) == ("test", f"{metric}_before", group)


@pytest.mark.parametrize(
    ("key", "bare", "adapted"),
    [
        ("val/loss_before", True, "val/loss"),
        ("test/bleu_unseen_before", True, "test/bleu_unseen"),
        ("test/bleu_unseen", False, "test/bleu_unseen"),
        ("epoch", False, "epoch"),
    ],
)
def test_keys_of_earlier_records_keep_their_meaning(key: str, bare: bool, adapted: str) -> None:
    assert (is_bare(key), adapted_key(key)) == (bare, adapted)
