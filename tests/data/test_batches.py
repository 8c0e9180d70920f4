"""The order of batches: every row once an epoch, for any number of ranks, from any point on."""

import itertools
import random
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptl_prefix.backbones.model_inputs import ModelInputs, Padding
from ptl_prefix.data.batches import (
    EvalBatches,
    PromptBatches,
    RowLayout,
    TrainBatches,
    batches_per_epoch,
    nested_examples,
)
from ptl_prefix.data.collation import EncodedRow
from ptl_prefix.data.encoded_split import EncodedSplit, EncodingReport, write_encoded
from ptl_prefix.data.rank_share import RankShare
from ptl_prefix.data.settings import DataSettings

PADDING = Padding(0)


class Lengths:
    """Stands in for an encoded split where only the order matters: rows of given lengths, without a file."""

    teacher = None

    def __init__(self, lengths: list[int]) -> None:
        self.lengths = np.array(lengths, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.lengths)

    def rows(self, indices: Any) -> list[dict[str, Any]]:
        return [
            {"input_ids": [int(index), *[7] * int(self.lengths[index] - 1)], "num_source_ids": 1, "example": 0}
            for index in indices
        ]


def of_lengths(lengths: list[int]) -> EncodedSplit:
    stand_in: Any = Lengths(lengths)
    return stand_in  # type: ignore[no-any-return]


def on_disk(folder: Path, lengths: list[int]) -> EncodedSplit:
    rows: list[EncodedRow] = [
        {"input_ids": [index, *([7] * (length - 1))], "num_source_ids": 1, "example": index}
        for index, length in enumerate(lengths)
    ]
    return write_encoded(folder, [(rows, EncodingReport(num_pairs=len(rows)))])


def rows_of(batch: ModelInputs) -> list[int]:
    return [int(row) for row in batch.input_ids[:, 0]] if batch.num_rows else []


def test_the_order_is_that_of_a_list_of_all_batches_but_makes_each_when_it_is_asked_for() -> None:
    lengths = [2 + row % 7 for row in range(1003)]
    share = RankShare(1, 2)

    order = TrainBatches(
        of_lengths(lengths), batch_size=4, padding=PADDING, seed=5, accumulation=3, rank_share=share
    ).order(2)

    generator = np.random.Generator(np.random.PCG64([5, 2]))
    rows = generator.permutation(len(lengths)).tolist()
    pools = [sorted(rows[start : start + 600], key=lengths.__getitem__) for start in range(0, len(rows), 600)]
    steps = [pool[start : start + 12] for pool in pools for start in range(0, len(pool), 12)]
    shuffled = [steps[index] for index in generator.permutation(len(steps))]
    expected = [step[start : start + 4][1::2] for step in shuffled for start in (0, 4, 8)]
    assert [batch.tolist() for batch in order] == expected
    assert [batch.tolist() for batch in order[7:9]] == expected[7:9]
    assert order[-1].tolist() == expected[-1]
    # 8 bytes for each row and each step, however many batches are made of them.
    assert order.rows.nbytes + order.steps.nbytes == 8 * (len(rows) + len(steps))
    with pytest.raises(IndexError):
        order[len(order)]


some_lengths = st.lists(st.integers(2, 9), min_size=4, max_size=40)
sizes = st.integers(1, 4)
seeds = st.integers(0, 2**32)


def shares(number: int) -> list[RankShare]:
    return [RankShare(rank, number) for rank in range(number)]


@given(some_lengths, sizes, st.integers(1, 4), st.integers(1, 3), seeds, st.integers(0, 3))
def test_an_epoch_has_every_row_once_for_any_number_of_ranks(
    lengths: list[int], batch_size: int, num_ranks: int, accumulation: int, seed: int, epoch: int
) -> None:
    ranks = [
        TrainBatches(
            of_lengths(lengths),
            batch_size=batch_size * num_ranks,
            padding=PADDING,
            seed=seed,
            accumulation=accumulation,
            rank_share=share,
        )
        for share in shares(num_ranks)
    ]

    orders = [rank.order(epoch) for rank in ranks]

    rows = [int(row) for order in orders for batch in order for row in batch]
    assert sorted(rows) == list(range(len(lengths)))
    assert {len(order) for order in orders} == {len(ranks[0])}
    assert len(ranks[0]) % accumulation == 0
    assert max(len(batch) for order in orders for batch in order) <= batch_size


@given(some_lengths, sizes, st.integers(1, 3), st.integers(1, 3), seeds, st.integers(0, 3))
def test_ranks_and_accumulated_batches_see_at_each_step_what_one_sees_with_a_larger_batch(
    lengths: list[int], batch_size: int, num_ranks: int, accumulation: int, seed: int, epoch: int
) -> None:
    arguments: dict[str, Any] = {"encoded": of_lengths(lengths), "padding": PADDING, "seed": seed}
    together = batch_size * num_ranks
    at_once = TrainBatches(**arguments, batch_size=together * accumulation).order(epoch)

    divided = [
        TrainBatches(**arguments, batch_size=together, accumulation=accumulation, rank_share=share).order(epoch)
        for share in shares(num_ranks)
    ]

    for number, step in enumerate(at_once):
        window = slice(number * accumulation, (number + 1) * accumulation)
        rows = [int(row) for order in divided for batch in order[window] for row in batch]
        assert sorted(rows) == sorted(step.tolist())


def test_a_rank_can_be_left_without_rows_and_says_so_by_a_batch_of_none() -> None:
    first, second = (
        TrainBatches(of_lengths([3] * 5), batch_size=4, padding=PADDING, seed=0, rank_share=share)
        for share in shares(2)
    )

    sizes = sorted((one.num_rows, other.num_rows) for one, other in zip(first, second, strict=True))

    assert sizes == [(1, 0), (2, 2)]


def test_evaluation_is_divided_by_batches_which_stay_as_they_are(tmp_path: Path) -> None:
    encoded = on_disk(tmp_path / "split", [3, 9, 5, 9, 2])

    divided = [
        [rows_of(batch) for batch in EvalBatches(encoded, batch_size=2, padding=PADDING, rank_share=s)]
        for s in shares(2)
    ]

    assert divided[0] == [[1, 3], [4]]
    assert divided[1][:1] == [[2, 0]]
    assert [len(rank) for rank in divided] == [2, 2], "a rank without batches would not be validated"
    assert EvalBatches(
        encoded, batch_size=2, padding=PADDING, rank_share=RankShare(1, 2)
    ).padding_share() == pytest.approx(1 / 2)


@given(some_lengths, sizes, seeds, st.integers(0, 60))
@settings(deadline=None)
def test_resuming_from_any_point_yields_the_rest_of_the_epoch(
    lengths: list[int], batch_size: int, seed: int, point: int
) -> None:
    def fresh() -> TrainBatches:
        return TrainBatches(of_lengths(lengths), batch_size=batch_size, padding=PADDING, seed=seed)

    def stream(batches: TrainBatches, number: int) -> list[list[int]]:
        taken: list[list[int]] = []
        while len(taken) < number:
            for batch in batches:
                taken.append(rows_of(batch))
                if len(taken) == number:
                    break
        return taken

    unbroken = stream(fresh(), point + 10)
    stopped = fresh()
    stream(stopped, point)
    resumed = fresh()
    resumed.load_state_dict(stopped.state_dict())

    assert stream(resumed, 10) == unbroken[point:]


def test_a_pass_ends_with_its_epoch_and_the_next_begins_another() -> None:
    batches = TrainBatches(of_lengths([3] * 10), batch_size=3, padding=PADDING, seed=0)

    first, second = [rows_of(batch) for batch in batches], [rows_of(batch) for batch in batches]

    assert len(first) == len(second) == len(batches) == 4
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(10))
    assert first != second


def test_the_state_counts_the_batch_that_is_in_use() -> None:
    batches = TrainBatches(of_lengths([3] * 10), batch_size=3, padding=PADDING, seed=0)

    next(iter(batches))

    assert batches.state_dict()["num_handed_out"] == 1


def test_a_finished_epoch_is_not_replayed() -> None:
    batches = TrainBatches(of_lengths([3] * 10), batch_size=3, padding=PADDING, seed=0)
    list(batches)
    resumed = TrainBatches(of_lengths([3] * 10), batch_size=3, padding=PADDING, seed=0)

    resumed.load_state_dict(batches.state_dict())

    assert [rows_of(batch) for batch in resumed] == [rows_of(batch) for batch in batches]
    assert resumed.state_dict()["epoch"] == 1


@pytest.mark.parametrize("change", [{"seed": 1}, {"batch_size": 2}, {"accumulation": 2}])
def test_a_position_in_another_order_is_refused(change: dict[str, int]) -> None:
    arguments: dict[str, Any] = {"batch_size": 3, "padding": PADDING, "seed": 0}
    state = TrainBatches(of_lengths([3] * 10), **arguments).state_dict()

    with pytest.raises(ValueError, match="batches of the order that it was saved from"):
        TrainBatches(of_lengths([3] * 10), **{**arguments, **change}).load_state_dict(state)


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        batches = TrainBatches(of_lengths([2 + row % 7 for row in range(50)]), batch_size=4, padding=PADDING, seed=seed)
        return [batch.tolist() for batch in batches.order(epoch)]

    first = order(0, 0)
    for reseed in (torch.manual_seed, random.seed, np.random.seed):
        reseed(5)

    assert order(0, 0) == first
    assert order(0, 1) != first
    assert order(1, 0) != first


def test_the_global_generators_are_left_alone() -> None:
    torch_state, python_state, numpy_state = torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=False)

    list(TrainBatches(of_lengths([3] * 20), batch_size=3, padding=PADDING, seed=0))

    assert torch.equal(torch.get_rng_state(), torch_state)
    assert random.getstate() == python_state
    assert str(np.random.get_state(legacy=False)) == str(numpy_state)


def test_batches_of_similar_length_hold_little_padding() -> None:
    generator = random.Random(0)
    encoded = of_lengths([generator.randint(10, 100) for _ in range(3000)])
    batches = TrainBatches(encoded, batch_size=16, padding=PADDING, seed=0)

    real = sum(int(batch.attention_mask.sum()) for batch in batches)
    positions = sum(
        batch.attention_mask.numel() for batch in TrainBatches(encoded, batch_size=16, padding=PADDING, seed=0)
    )

    assert TrainBatches(encoded, batch_size=16, padding=PADDING, seed=0).padding_share() == pytest.approx(
        1 - real / positions
    )
    assert batches.padding_share() < 0.08  # some 0.06 of it for widths that are multiples of 8


def test_a_position_is_good_for_any_number_of_ranks() -> None:
    arguments: dict[str, Any] = {"batch_size": 4, "padding": PADDING, "seed": 0}
    alone = TrainBatches(of_lengths([3] * 10), **arguments)
    next(iter(alone))
    left = [sorted(rows_of(batch)) for batch in alone]

    ranks = [TrainBatches(of_lengths([3] * 10), **arguments, rank_share=share) for share in shares(2)]
    alone_again = TrainBatches(of_lengths([3] * 10), **arguments)
    next(iter(alone_again))
    for rank in ranks:
        rank.load_state_dict(alone_again.state_dict())

    assert [sorted(rows_of(a) + rows_of(b)) for a, b in zip(*ranks, strict=True)] == left


def test_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(ValueError, match="There must be rows to train on"):
        TrainBatches(of_lengths([]), batch_size=1, padding=PADDING, seed=0)


def test_evaluation_goes_from_the_longest_to_the_shortest_every_time(tmp_path: Path) -> None:
    batches = EvalBatches(on_disk(tmp_path / "split", [3, 9, 5, 9, 2]), batch_size=2, padding=PADDING)

    assert [rows_of(batch) for batch in batches] == [rows_of(batch) for batch in batches] == [[1, 3], [2, 0], [4]]
    assert len(batches) == 3
    assert batches.padding_share() == pytest.approx(1 - 28 / (2 * 16 + 2 * 8 + 8))


def test_prompts_come_with_their_indices() -> None:
    prompts = [[5], [6, 6, 6], [7, 7]]
    batches = PromptBatches(prompts, batch_size=2, padding=PADDING)

    handed_out = [(inputs.input_ids.tolist(), indices) for inputs, indices in batches]

    assert handed_out == [([[6, 6, 6], [0, 7, 7]], [1, 2]), ([[5]], [0])]
    assert len(batches) == 2


def test_settings_come_from_the_config_and_are_checked() -> None:
    assert DataSettings().batch_size == 16
    with pytest.raises(ValueError, match=r"`data.batch_size` must be >= 1, but is 0\."):
        DataSettings(batch_size=0)


SHARED = RowLayout(share_sources=True)


def of_examples(folder: Path, nums: list[int]) -> EncodedSplit:
    """A split whose examples have these numbers of targets, after a prompt of two ids."""
    owners = [example for example, num in enumerate(nums) for _ in range(num)]
    rows: list[EncodedRow] = [
        {"input_ids": [9, 500 + example, 100 + row, *[7] * (row % 5)], "num_source_ids": 2, "example": example}
        for row, example in enumerate(owners)
    ]
    return write_encoded(folder, [(rows, EncodingReport(num_examples=len(nums), num_pairs=len(rows)))])


def targets_of(batch: ModelInputs) -> list[int]:
    """The rows of a split from `of_examples` that are trained on in a batch."""
    assert batch.labels is not None
    return sorted(label - 100 for label in batch.labels.flatten().tolist() if 100 <= label < 500)


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_shared_sources_train_on_whole_examples_each_once_an_epoch(tmp_path: Path, num_ranks: int) -> None:
    nums = [1 + example % 4 for example in range(41)]
    encoded = of_examples(tmp_path / "split", nums)
    ranks = [
        TrainBatches(
            encoded, batch_size=10, padding=PADDING, seed=1, rank_share=RankShare(rank, num_ranks), layout=SHARED
        )
        for rank in range(num_ranks)
    ]

    epochs = [list(batches) for batches in ranks]

    assert {len(epoch) for epoch in epochs} == {len(ranks[0])}
    # 101 targets of 41 examples: four examples have ten targets on average.
    assert len(ranks[0]) == -(-41 // 4)
    assert len(ranks[0]) == batches_per_epoch(encoded, batch_size=10, accumulation=1, layout=SHARED)
    assert sorted(row for epoch in epochs for batch in epoch for row in targets_of(batch)) == list(range(sum(nums)))
    owners = [example for example, num in enumerate(nums) for _ in range(num)]
    for batch in epochs[0]:
        found = {owners[row] for row in targets_of(batch)}
        assert targets_of(batch) == [row for row, owner in enumerate(owners) if owner in found]
        assert batch.input_ids.eq(9).sum() == sum(1 for example in found)  # each prompt is there once


def test_an_epoch_of_shared_sources_is_resumed_and_not_taken_for_one_of_rows(tmp_path: Path) -> None:
    encoded = of_examples(tmp_path / "split", [3] * 12)
    arguments: dict[str, Any] = {"batch_size": 6, "padding": PADDING, "seed": 1}
    whole = [targets_of(batch) for batch in TrainBatches(encoded, **arguments, layout=SHARED)]
    stopped = TrainBatches(encoded, **arguments, layout=SHARED)
    first = [targets_of(batch) for batch in itertools.islice(stopped, 2)]

    resumed = TrainBatches(encoded, **arguments, layout=SHARED)
    resumed.load_state_dict(stopped.state_dict())

    assert first + [targets_of(batch) for batch in resumed] == whole
    with pytest.raises(ValueError, match="num_examples"):
        TrainBatches(encoded, **arguments).load_state_dict(stopped.state_dict())


def test_packing_changes_no_step(tmp_path: Path) -> None:
    encoded = of_examples(tmp_path / "split", [1, 2, 3] * 9)
    arguments: dict[str, Any] = {"batch_size": 5, "padding": PADDING, "seed": 1}

    packed = TrainBatches(encoded, **arguments, layout=RowLayout(packing=True))

    plain = TrainBatches(encoded, **arguments)
    assert [targets_of(batch) for batch in packed] == [targets_of(batch) for batch in plain]
    assert packed.state_dict()["order_of"] == plain.state_dict()["order_of"]


@pytest.mark.parametrize("num_rows", [None, 17, 1])
@pytest.mark.parametrize("batch_size", [2, 8])
def test_validation_with_shared_sources_has_the_same_rows(
    tmp_path: Path, num_rows: int | None, batch_size: int
) -> None:
    encoded = of_examples(tmp_path / "split", [1, 7, 2, 3, 5, 1, 1])
    arguments: dict[str, Any] = {"batch_size": batch_size, "padding": PADDING, "num_rows": num_rows}
    plain = [row for batch in EvalBatches(encoded, **arguments) for row in targets_of(batch)]

    batches = [targets_of(batch) for batch in EvalBatches(encoded, **arguments, layout=SHARED)]

    assert sorted(row for batch in batches for row in batch) == sorted(plain)
    assert max(map(len, batches)) <= batch_size


@pytest.mark.parametrize("layout", [RowLayout(), RowLayout(share_sources=True)])
def test_a_smaller_subset_of_examples_is_part_of_a_larger_one(tmp_path: Path, layout: RowLayout) -> None:
    encoded = of_examples(tmp_path / "split", [1, 7, 2, 3, 5, 1, 1])

    subsets = [
        EvalBatches(encoded, batch_size=4, padding=PADDING, layout=layout, num_examples=number)
        for number in (1, 3, 5, 7, 100)
    ]

    examples = [set(subset.examples.tolist()) for subset in subsets]
    assert [len(one) for one in examples] == [1, 3, 5, 7, 7]
    assert all(smaller <= larger for smaller, larger in itertools.pairwise(examples))
    assert examples[1] == set(nested_examples(encoded, 3).tolist()) != {0, 1, 2}, "not the first ones of the split"
    rows = np.sort(np.concatenate(list(subsets[1]._order)))
    assert rows.tolist() == np.flatnonzero(np.isin(encoded.examples, subsets[1].examples)).tolist(), "all of their rows"
