"""Hashed n-grams: what is counted, and which part of a source is."""

import json

import numpy as np
import pytest

from ptl_prefix.artifacts.ngram_counts import MAX_CHARACTERS, count_ngrams, routed_text, total_ngrams


def test_words_signs_and_pairs_are_counted_and_case_is_not() -> None:
    rows = count_ngrams(["Hi , you", "hi,YOU", "you hi", "", "you"])

    # Three tokens and two pairs; two tokens and a pair.
    assert rows.lengths.tolist() == [5, 5, 3, 0, 1]
    first, second, third = (set(rows.columns[rows.rows == index].tolist()) for index in range(3))
    assert first == second
    assert len(first & third) == 2  # the words, and not the pair
    assert len(rows) == 5
    assert len(count_ngrams([])) == 0


def test_a_column_means_the_same_in_every_version() -> None:
    # Bundles store these numbers: another hash, or another way to find words, needs another `SCHEME`.
    assert count_ngrams(["name : mill"]).columns.tolist() == [13117, 15323, 15376, 24398, 26774]


def test_totals_are_the_sum_of_the_rows() -> None:
    texts = [f"the {number} mill {number % 7}" for number in range(600)]

    totals, num_texts = total_ngrams(iter(texts))

    rows = count_ngrams(texts)
    assert num_texts == 600
    assert totals.sum() == rows.lengths.sum() == 600 * 7
    assert totals[count_ngrams(["mill"]).columns[0]] >= 600
    assert np.array_equal(np.flatnonzero(totals), np.unique(rows.columns))


def test_any_characters_are_counted_and_a_long_text_is_cut() -> None:
    assert count_ngrams(["\ud800 名前 \0 é"]).lengths[0] > 0
    long = count_ngrams(["a " * 10**6, "a " * (MAX_CHARACTERS // 2)])
    assert long.lengths[0] == long.lengths[1]


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("name : The Mill", "name : The Mill"),
        (json.dumps([{"role": "user", "content": "one"}, {"role": "user", "content": "two"}]), "two"),
        (json.dumps([{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]), "one"),
        (json.dumps({"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "é"}]}), "é"),
        ('[{"role": "system", "content": "x"}]', '[{"role": "system", "content": "x"}]'),
        ('{"role": 3}', '{"role": 3}'),
        ('say "role" [', 'say "role" ['),
        ("[" * 5000 + '"role"', "[" * 5000 + '"role"'),
    ],
)
def test_of_a_chat_the_last_user_message_is_routed(source: str, text: str) -> None:
    assert routed_text(source) == text
