"""Rows become batches: padding changes nothing, and only targets are trained on."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ptl_prefix.backbones.model_inputs import IGNORED_LABEL, Padding, left_padded, prompt_batch
from ptl_prefix.data.collation import EncodedRow, batch_width, collate_training

PAD = 3
ONE_TEXT, TWO_TEXTS = Padding(PAD), Padding(PAD, [7, 8])


@st.composite
def rows(draw: Any) -> EncodedRow:
    """A row with a prompt, a target and an end; some of its ids are the padding's."""
    prompt = draw(st.lists(st.integers(0, 9), min_size=1, max_size=8))
    target = draw(st.lists(st.integers(0, 9), min_size=1, max_size=8))
    return EncodedRow(input_ids=prompt + target, num_source_ids=len(prompt), example=0)


@given(st.lists(rows(), min_size=1, max_size=5))
def test_a_row_does_not_depend_on_its_batch(batch: list[EncodedRow]) -> None:
    together = collate_training(batch, ONE_TEXT)
    assert together.labels is not None

    for index, row in enumerate(batch):
        alone = collate_training([row], ONE_TEXT)
        length = len(row["input_ids"])
        assert alone.labels is not None
        assert together.input_ids[index, :length].tolist() == alone.input_ids[0, :length].tolist() == row["input_ids"]
        assert together.labels[index, :length].tolist() == alone.labels[0, :length].tolist()
        assert together.attention_mask[index].tolist() == [1] * length + [0] * (together.input_ids.shape[1] - length)


@given(st.lists(rows(), min_size=1, max_size=5))
def test_labels_are_the_targets_and_nothing_else(batch: list[EncodedRow]) -> None:
    labels = collate_training(batch, ONE_TEXT).labels
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
    ids = list(range(8))
    batch: list[EncodedRow] = [EncodedRow(input_ids=ids, num_source_ids=1, example=0)]

    for pad_id in (0, 9):
        assert collate_training(batch, Padding(pad_id)).input_ids.tolist() == [ids]


@given(st.lists(rows(), min_size=1, max_size=5))
def test_batches_come_in_few_widths(batch: list[EncodedRow]) -> None:
    longest = max(len(row["input_ids"]) for row in batch)

    width = collate_training(batch, ONE_TEXT).input_ids.shape[1]

    assert width == batch_width(longest)
    assert width % 8 == 0
    assert 0 <= width - longest < 8


@given(st.lists(rows(), min_size=1, max_size=5))
def test_an_encoder_decoder_reads_the_prompt_and_writes_the_target(batch: list[EncodedRow]) -> None:
    inputs = collate_training(batch, TWO_TEXTS)
    assert inputs.labels is not None
    assert inputs.decoder_input_ids is not None
    assert inputs.decoder_attention_mask is not None

    for index, row in enumerate(batch):
        source, target = row["input_ids"][: row["num_source_ids"]], row["input_ids"][row["num_source_ids"] :]
        read = inputs.input_ids[index][inputs.attention_mask[index].bool()].tolist()
        written = inputs.decoder_input_ids[index][inputs.decoder_attention_mask[index].bool()].tolist()
        assert (read, written) == (source, [7, 8, *target])
        assert inputs.attention_mask[index].tolist() == sorted(inputs.attention_mask[index].tolist(), reverse=True)
        labels = inputs.labels[index].tolist()
        assert labels[2 : len(written)] == target
        assert set(labels[:2] + labels[len(written) :]) == {IGNORED_LABEL}
    assert inputs.num_tokens == sum(len(row["input_ids"]) + 2 for row in batch)


def test_prompts_of_an_encoder_decoder_begin_together() -> None:
    inputs = prompt_batch([[5, 6], [4]], TWO_TEXTS)

    assert inputs.input_ids.tolist() == [[5, 6], [4, PAD]]
    assert inputs.attention_mask.tolist() == [[1, 1], [1, 0]]
    assert inputs.decoder_input_ids is not None
    assert inputs.decoder_input_ids.tolist() == [[7, 8], [7, 8]]
