"""Several examples in one row: the same loss as each alone, nothing seen of another, and few wasted tokens."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny_backbones import EOS, PAD
from support.toy_batches import packable_pairs, random_ids
from torch.testing import assert_close

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import IGNORED_LABEL, ModelInputs, Padding
from ptl_prefix.backbones.text_layout import NO_PART
from ptl_prefix.data.collation import EncodedRow, collate_training
from ptl_prefix.data.packing import collate_packed, shared_length, tree_of
from ptl_prefix.evaluation.loss import summed_loss, target_loss
from ptl_prefix.methods.no_adaptation import NoAdaptation


def pair(num_source: int, num_target: int, example: int) -> EncodedRow:
    ids = [*random_ids(num_source, seed=example), *random_ids(num_target - 1, seed=100 + num_target), EOS]
    return EncodedRow(input_ids=ids, num_source_ids=num_source, example=example)


def test_targets_branch_from_the_prompt_with_its_last_id() -> None:
    pairs = [
        EncodedRow(input_ids=[5, 6, 7, 8, 1], num_source_ids=3, example=0),
        EncodedRow(input_ids=[5, 6, 7, 9, 9, 1], num_source_ids=3, example=0),
    ]

    tree = tree_of(pairs)

    no = IGNORED_LABEL
    assert tree.ids == [5, 6, 7, 8, 1, 7, 9, 9, 1]
    assert tree.labels == [no, no, no, 8, 1, no, 9, 9, 1]
    assert tree.part == [0, 0, 1, 1, 1, 2, 2, 2, 2]
    assert tree.continues == [NO_PART, NO_PART, 0, 0, 0, 0, 0, 0, 0]
    assert tree.positions == [0, 1, 2, 3, 4, 2, 3, 4, 5]
    assert shared_length([5, 6], 3) == len(tree)


@pytest.mark.parametrize("num_source", [1, 2, 4])
@pytest.mark.parametrize("num_targets", [1, 3])
def test_the_length_of_a_tree_is_known_without_it(num_source: int, num_targets: int) -> None:
    pairs = [pair(num_source, 2 + number, 0) for number in range(num_targets)]

    assert len(tree_of(pairs)) == shared_length([len(one["input_ids"]) for one in pairs], num_source)


@pytest.mark.parametrize("shares_sources", [False, True])
def test_the_loss_and_its_gradient_are_those_of_the_pairs_alone_in_float64(
    backbone: Backbone, shares_sources: bool
) -> None:
    backbone.model.double()
    method = NoAdaptation().attach(backbone)
    embeddings = backbone.model.get_input_embeddings().weight  # type: ignore[operator, union-attr]
    embeddings.requires_grad_(True)
    pairs = packable_pairs()

    def nats_and_gradient(batch: ModelInputs) -> tuple[torch.Tensor, torch.Tensor]:
        embeddings.grad = None
        nats = target_loss(backbone, method, batch).nats
        nats.backward()
        assert embeddings.grad is not None
        return nats.detach(), embeddings.grad.clone()

    packed = nats_and_gradient(collate_packed(pairs, pad_id=PAD, shares_sources=shares_sources))
    alone = [nats_and_gradient(collate_training([one], Padding(PAD))) for one in pairs]

    # The loss itself is summed in float32.
    assert_close(packed[0], sum(nats for nats, _ in alone), rtol=1e-6, atol=0, check_dtype=False)
    assert_close(packed[1], sum(gradient for _, gradient in alone), rtol=1e-6, atol=1e-6)


def test_no_token_sees_another_example_or_another_target(backbone: Backbone) -> None:
    method = NoAdaptation().attach(backbone)
    pairs = packable_pairs()
    changed = list(pairs)
    other_target = [*pairs[1]["input_ids"][:6], *random_ids(7, seed=999), EOS]
    changed[1] = EncodedRow(input_ids=other_target, num_source_ids=6, example=0)
    changed[3] = EncodedRow(input_ids=[*random_ids(8, seed=998), EOS], num_source_ids=3, example=1)

    def nats(kept: int, rows: list[EncodedRow]) -> float:
        batch = collate_packed(rows, pad_id=PAD, shares_sources=True)
        assert batch.labels is not None
        assert batch.layout is not None
        wanted = rows[kept]["input_ids"][rows[kept]["num_source_ids"] :]
        only = torch.full_like(batch.labels, IGNORED_LABEL)
        for row, labels in enumerate(batch.labels.tolist()):
            for start in range(len(labels) - len(wanted) + 1):
                if labels[start : start + len(wanted)] == wanted:
                    only[row, start : start + len(wanted)] = batch.labels[row, start : start + len(wanted)]
        assert int((only != IGNORED_LABEL).sum()) == len(wanted)
        return float(summed_loss(backbone, method, [batch.replace(labels=only)]).nats)

    for kept in (0, 2, 4):
        assert nats(kept, changed) == pytest.approx(nats(kept, pairs), rel=1e-6)


some_pairs = st.lists(
    st.tuples(st.integers(1, 30), st.lists(st.integers(2, 20), min_size=1, max_size=6)), min_size=1, max_size=12
)


@settings(max_examples=50, deadline=None)
@given(some_pairs, st.booleans())
def test_every_target_is_there_once_and_little_is_wasted(
    sizes: list[tuple[int, list[int]]], shares_sources: bool
) -> None:
    pairs = [pair(source, num, example) for example, (source, nums) in enumerate(sizes) for num in nums]

    batch = collate_packed(pairs, pad_id=PAD, shares_sources=shares_sources)

    plain = collate_training(pairs, Padding(PAD))
    assert batch.labels is not None
    assert plain.labels is not None
    assert sorted(batch.labels[batch.labels != IGNORED_LABEL].tolist()) == sorted(
        plain.labels[plain.labels != IGNORED_LABEL].tolist()
    )
    assert batch.input_ids.numel() <= plain.input_ids.numel() + 8 * len(batch.input_ids)
    assert batch.num_tokens <= plain.num_tokens


def test_several_texts_in_a_row_have_no_single_first_target() -> None:
    batch = collate_packed(packable_pairs(), pad_id=PAD, shares_sources=True)

    with pytest.raises(ValueError, match="several texts"):
        _ = batch.first_written
