"""Collation of encoded rows into one training batch.

In: encoded rows. Out: `ModelInputs`, padded on the right; `model_inputs.prompt_batch` makes the batches for generation.
The padding of a batch never changes what its rows hold.
"""

from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor, nn

from ptl_prefix.backbones.model_inputs import IGNORED_LABEL, ModelInputs, Padding

_WIDTH_MULTIPLE = 8
"""The width of each batch is a multiple of this: fewer shapes, whose kernels are reused."""


class EncodedRow(TypedDict):
    """One (source, target) pair as ids.

    Args:
        input_ids: Ids of the prompt, the target and its end.
        num_source_ids: Number of prompt ids among them; these are not trained on.
        example: Index of the pair's example in its split.
    """

    input_ids: list[int]
    num_source_ids: int
    example: int


def collate_training(rows: Sequence[EncodedRow], padding: Padding) -> ModelInputs:
    """Collate rows into a right-padded batch. Its labels are the targets and their ends, not prompts or padding.

    Args:
        rows: Prompts with their targets; without rows, the batch has no columns either.
        padding: Pad id and decoder start ids. With start ids the prompt is the encoder's text and the target the
            decoder's.
    """
    if padding.decoder_start_ids is not None:
        return _collate_encoder_decoder(rows, padding.pad_id, padding.decoder_start_ids)
    texts = [torch.tensor(row["input_ids"], dtype=torch.long) for row in rows]
    return ModelInputs(
        input_ids=_padded(texts, padding.pad_id),
        attention_mask=_padded([torch.ones_like(text) for text in texts], 0),
        labels=_labels(texts, [row["num_source_ids"] for row in rows]),
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
