"""Rows become batches: padding changes nothing, and only targets are trained on."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ptl_prefix.backbones.model_inputs import IGNORED_LABEL, left_padded
from ptl_prefix.data.collation import EncodedRow, collate_training

PAD = 3


@st.composite
def rows(draw: Any) -> EncodedRow:
    """A row with a prompt, a target and an end; some of its ids are the padding's."""
    prompt = draw(st.lists(st.integers(0, 9), min_size=1, max_size=8))
    target = draw(st.lists(st.integers(0, 9), min_size=1, max_size=8))
    return EncodedRow(input_ids=prompt + target, num_source_ids=len(prompt), example=0)


@given(st.lists(rows(), min_size=1, max_size=5))
def test_a_row_does_not_depend_on_its_batch(batch: list[EncodedRow]) -> None:
    together = collate_training(batch, PAD)
    assert together.labels is not None

    for index, row in enumerate(batch):
        alone = collate_training([row], PAD)
        length = len(row["input_ids"])
        assert alone.labels is not None
        assert together.input_ids[index, :length].tolist() == alone.input_ids[0].tolist() == row["input_ids"]
        assert together.labels[index, :length].tolist() == alone.labels[0].tolist()
        assert together.attention_mask[index].tolist() == [1] * length + [0] * (together.input_ids.shape[1] - length)


@given(st.lists(rows(), min_size=1, max_size=5))
def test_labels_are_the_targets_and_nothing_else(batch: list[EncodedRow]) -> None:
    labels = collate_training(batch, PAD).labels
    assert labels is not None

    for row, label in zip(batch, labels.tolist(), strict=True):
        num_source, length = row["num_source_ids"], len(row["input_ids"])
        assert label[num_source:length] == row["input_ids"][num_source:]
        assert set(label[:num_source] + label[length:]) <= {IGNORED_LABEL}


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=8), min_size=1, max_size=5))
def test_prompts_end_together(prompts: list[list[int]]) -> None:
    inputs = left_padded(prompts, PAD)

    assert inputs.labels is None
    for prompt, ids, mask in zip(prompts, inputs.input_ids.tolist(), inputs.attention_mask.tolist(), strict=True):
        padding = len(ids) - len(prompt)
        assert ids == [PAD] * padding + prompt
        assert mask == [0] * padding + [1] * len(prompt)


def test_a_row_without_padding_is_not_changed_by_what_the_padding_is() -> None:
    batch: list[EncodedRow] = [EncodedRow(input_ids=[1, 2, 3], num_source_ids=1, example=0)]

    assert collate_training(batch, 0).input_ids.tolist() == collate_training(batch, 9).input_ids.tolist() == [[1, 2, 3]]
