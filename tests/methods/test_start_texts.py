"""Texts of training rows: one pair of each example, whole chunks, repeated where they are too short."""

import itertools

import torch
from support.toy_batches import ToyRows

from ptl_prefix.methods.start_inputs import first_pairs
from ptl_prefix.methods.start_texts import (
    demonstration_ids,
    digest,
    pairs_after_demonstrations,
    sampled_chunk_ids,
    training_input_ids,
)

ROWS = ToyRows()
IDS = [row["input_ids"] for row in ROWS.rows(range(len(ROWS)))]
FIRST = [IDS[index] for index in (0, 1, 3, 4, 5, 6)]
"""The first row of each example."""


def test_each_example_gives_its_first_pair() -> None:
    pairs = list(first_pairs(ROWS))

    assert [pair.prompt + pair.target for pair in pairs] == FIRST
    assert [len(pair.prompt) for pair in pairs] == [3, 4, 5, 6, 7, 8]


def test_inputs_and_demonstrations_follow_one_another_and_begin_again() -> None:
    whole = list(itertools.chain(*FIRST))
    prompts = [token for pair in first_pairs(ROWS) for token in pair.prompt]

    assert demonstration_ids(ROWS, 10) == whole[:10]
    assert demonstration_ids(ROWS, len(whole) + 3) == [*whole, *whole[:3]]
    assert training_input_ids(ROWS, len(prompts) + 2) == [*prompts, *prompts[:2]]


def test_the_pairs_after_demonstrations_are_those_that_they_have_not_used() -> None:
    def after(length: int) -> list[list[int]]:
        return [pair.prompt + pair.target for pair in pairs_after_demonstrations(ROWS, length)]

    assert after(len(FIRST[0])) == FIRST[1:]
    assert after(len(FIRST[0]) + 1) == FIRST[2:]
    assert after(1000) == FIRST


def test_chunks_are_pieces_of_rows_and_follow_the_seed() -> None:
    def drawn(seed: int, length: int = 12, num_chunks: int = 3) -> list[int]:
        torch.manual_seed(seed)
        return sampled_chunk_ids(ROWS, length, num_chunks)

    places = {tuple(ids[start : start + 4]) for ids in IDS for start in range(len(ids) - 3)}
    assert all(tuple(drawn(0)[start : start + 4]) in places for start in (0, 4, 8))
    assert drawn(0) == drawn(0)
    assert len({digest(drawn(seed)) for seed in range(8)}) > 4
    assert len(drawn(0, length=90, num_chunks=2)) == 90  # no row has 45 ids
