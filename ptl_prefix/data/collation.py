"""Collation of encoded rows into one training batch.

In: encoded rows, and a teacher's log-probabilities where a teacher is matched. Out: `ModelInputs`, padded on the right;
`model_inputs.prompt_batch` makes the batches for generation. The padding of a batch never changes what its rows hold.
"""

from collections.abc import Callable, Sequence
from typing import NotRequired, TypedDict

import torch
from torch import Tensor, nn

from ptl_prefix.artifacts.self_study import TeacherTokens
from ptl_prefix.backbones.layer_input import LayerInput, joined_inputs
from ptl_prefix.backbones.model_inputs import IGNORED_LABEL, ModelInputs, Padding, TeacherTargets
from ptl_prefix.errors import DataError

_WIDTH_MULTIPLE = 8
"""The width of each batch is a multiple of this: fewer shapes, whose kernels are reused."""


class EncodedRow(TypedDict):
    """One (source, target) pair as ids.

    Args:
        input_ids: Ids of the prompt, the target and its end.
        num_source_ids: Number of prompt ids among them; these are not trained on.
        example: Index of the pair's example in its split.
        layer_input: What a layer reads of these ids, if that was computed before.
    """

    input_ids: list[int]
    num_source_ids: int
    example: int
    layer_input: NotRequired[LayerInput]


Teacher = Callable[[int], TeacherTokens]
"""Returns what a teacher expects at each token of an example's target, by the example's index in its split."""
LayerInputs = Callable[[int], LayerInput]
"""Returns what a layer reads of a row, by the row's index in its split."""


def collate_training(rows: Sequence[EncodedRow], padding: Padding, teacher: Teacher | None = None) -> ModelInputs:
    """Collate rows into a right-padded batch. Its labels are the targets and their ends, not prompts or padding.

    Args:
        rows: Prompts with their targets; without rows, the batch has no columns either.
        padding: Pad id and decoder start ids. With start ids the prompt is the encoder's text and the target the
            decoder's.
        teacher: Teacher of the rows' examples, in a decoder-only backbone; `None` for none.

    Raises:
        DataError: The teacher has read other tokens than those of a row's target.
    """
    batch = _collate(rows, padding)
    if teacher is None or not rows:
        return batch
    assert padding.decoder_start_ids is None, "an encoder-decoder is refused before its rows are collated"
    return batch.replace(teacher=_teacher_targets(rows, teacher, width=batch.input_ids.shape[1]))


def _collate(rows: Sequence[EncodedRow], padding: Padding) -> ModelInputs:
    if padding.decoder_start_ids is not None:
        return _collate_encoder_decoder(rows, padding.pad_id, padding.decoder_start_ids)
    texts = [torch.tensor(row["input_ids"], dtype=torch.long) for row in rows]
    ids = _padded(texts, padding.pad_id)
    return ModelInputs(
        input_ids=ids,
        attention_mask=_padded([torch.ones_like(text) for text in texts], 0),
        labels=_labels(texts, [row["num_source_ids"] for row in rows]),
        layer_input=joined_inputs([[row["layer_input"]] if "layer_input" in row else [] for row in rows], ids.shape[1]),
    )


def _collate_encoder_decoder(rows: Sequence[EncodedRow], pad_id: int, decoder_start_ids: Sequence[int]) -> ModelInputs:
    sources = [torch.tensor(row["input_ids"][: row["num_source_ids"]], dtype=torch.long) for row in rows]
    written = [
        torch.tensor([*decoder_start_ids, *row["input_ids"][row["num_source_ids"] :]], dtype=torch.long) for row in rows
    ]
    return ModelInputs(
        input_ids=_padded(sources, pad_id),
        attention_mask=_padded([torch.ones_like(source) for source in sources], 0),
        labels=_labels(written, [len(decoder_start_ids)] * len(rows)),
        decoder_input_ids=_padded(written, pad_id),
        decoder_attention_mask=_padded([torch.ones_like(text) for text in written], 0),
    )


def _teacher_targets(rows: Sequence[EncodedRow], teacher: Teacher, *, width: int) -> TeacherTargets:
    """The teacher's tokens of each row, at the positions of its labels."""
    tokens = [teacher(row["example"]) for row in rows]
    num_kept = max(of_row.top_ids.shape[1] for of_row in tokens)
    ids = torch.zeros(len(rows), width, num_kept, dtype=torch.long)
    log_probs = torch.full((len(rows), width, num_kept), -torch.inf)
    for index, (row, of_row) in enumerate(zip(rows, tokens, strict=True)):
        start, end = row["num_source_ids"], len(row["input_ids"])
        if row["input_ids"][start:end] != of_row.token_ids.tolist():
            raise DataError(
                "A teacher must have read the tokens of the answer that is learned, but those of example "
                f"{row['example']} differ; make the self-study with the tokenizer of this backbone."
            )
        kept = slice(of_row.top_ids.shape[1])
        ids[index, start:end, kept] = of_row.top_ids.clamp(min=0)  # some id where none is kept
        log_probs[index, start:end, kept] = of_row.top_log_probs
    return TeacherTargets(ids, log_probs)


def _labels(texts: Sequence[Tensor], nums_given: Sequence[int]) -> Tensor:
    """The ids of each text after the first ones, which are given."""
    labels = [text.clone() for text in texts]
    for label, num_given in zip(labels, nums_given, strict=True):
        label[:num_given] = IGNORED_LABEL
    return _padded(labels, IGNORED_LABEL)


def batch_width(longest: int) -> int:
    """The width of a batch whose longest row has `longest` ids."""
    return -(-longest // _WIDTH_MULTIPLE) * _WIDTH_MULTIPLE


def _padded(rows: list[Tensor], value: int) -> Tensor:
    if not rows:
        return torch.zeros(0, 0, dtype=torch.long)
    batch = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)
    longest = batch.shape[1]
    return nn.functional.pad(batch, (0, batch_width(longest) - longest), value=value)
