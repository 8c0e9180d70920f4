"""What one forward pass takes, for any batch of texts."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.tiny_backbones import PAD
from support.toy_batches import padded, texts
from torch.testing import assert_close

from ptl_prefix.backbones.model_inputs import ModelInputs, left_padded

IDS = st.integers(min_value=PAD + 1, max_value=200)
ROWS = st.lists(st.lists(IDS, min_size=1, max_size=12), min_size=1, max_size=6)
OFFSETS = st.integers(min_value=0, max_value=50)


@given(ROWS)
def test_every_text_ends_at_the_right_edge_whole_and_in_order(rows: list[list[int]]) -> None:
    inputs = left_padded(rows, PAD)

    assert inputs.num_rows == len(rows)
    assert inputs.input_ids.shape == inputs.attention_mask.shape == (len(rows), max(map(len, rows)))
    for ids, mask, row in zip(inputs.input_ids.tolist(), inputs.attention_mask.tolist(), rows, strict=True):
        padding = len(ids) - len(row)
        assert ids == [PAD] * padding + row
        assert mask == [0] * padding + [1] * len(row)


@given(ROWS, OFFSETS)
def test_positions_count_text_only_from_the_offset_on_either_side(rows: list[list[int]], offset: int) -> None:
    for side in ("left", "right"):
        inputs = padded(rows, side).with_positions(offset)
        assert inputs.position_ids is not None
        for positions, mask, row in zip(inputs.position_ids, inputs.attention_mask, rows, strict=True):
            assert positions[mask.bool()].tolist() == list(range(offset, offset + len(row)))


@given(ROWS, OFFSETS)
def test_padding_never_has_a_position_that_text_has_not(rows: list[list[int]], offset: int) -> None:
    # A padded place past the learned positions would be an error though nobody attends to it.
    for side in ("left", "right"):
        positions = padded(rows, side).with_positions(offset).position_ids
        assert positions is not None
        assert positions.min() == offset
        assert positions.max() == offset + max(map(len, rows)) - 1


@given(st.data(), ROWS)
def test_every_row_may_have_an_offset_of_its_own(data: st.DataObject, rows: list[list[int]]) -> None:
    offsets = data.draw(st.lists(OFFSETS, min_size=len(rows), max_size=len(rows)))

    together = left_padded(rows, PAD).with_positions(torch.tensor(offsets))

    assert together.position_ids is not None
    for positions, row, offset in zip(together.position_ids, rows, offsets, strict=True):
        assert positions[-len(row) :].tolist() == list(range(offset, offset + len(row)))


def test_one_offset_in_a_tensor_serves_every_row() -> None:
    inputs = padded(texts(), "left")

    assert_close(inputs.with_positions(torch.tensor([7])).position_ids, inputs.with_positions(7).position_ids)


def test_a_copy_differs_in_what_was_changed_and_nothing_else() -> None:
    inputs = padded(texts(), "left")

    changed = inputs.replace(labels=inputs.input_ids)

    assert changed.labels is inputs.input_ids
    assert inputs.labels is None
    assert changed.attention_mask is inputs.attention_mask


def test_everything_moves_and_what_is_absent_stays_absent() -> None:
    moved = padded(texts(), "left").with_positions().to("meta")

    devices = {name: getattr(value, "type", None) for name, value in _devices(moved).items()}
    present = {name for name, device in devices.items() if device == "meta"}
    assert present == {"input_ids", "attention_mask", "position_ids"}
    assert {device for name, device in devices.items() if name not in present} == {None}


def _devices(inputs: ModelInputs) -> dict[str, torch.device | None]:
    fields = {field.name: getattr(inputs, field.name) for field in dataclasses.fields(inputs)}
    return {name: None if value is None else value.device for name, value in fields.items()}


def test_a_mask_of_another_shape_than_the_ids_is_refused() -> None:
    with pytest.raises(Exception, match="Type-check error"):
        ModelInputs(torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 4, dtype=torch.long))
