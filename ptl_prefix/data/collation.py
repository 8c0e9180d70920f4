"""Rows of ids become one batch.

In: encoded rows. Out: `ModelInputs`, padded on the right; prompts for generation are `model_inputs.left_padded`. What
    a row holds never depends on the padding of its batch.
"""

from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor, nn

from ptl_prefix.backbones.model_inputs import IGNORED_LABEL, ModelInputs

_WIDTH_MULTIPLE = 8
"""Batches are as wide as a multiple of this: few shapes, so that the kernels made for them are used again."""


class EncodedRow(TypedDict):
    """One (source, target) pair as ids.

    Args:
        input_ids: The prompt, the target and what ends it.
        num_source_ids: How many of them are the prompt, which is not trained on.
        example: Index of the pair's example in its split.
    """

    input_ids: list[int]
    num_source_ids: int
    example: int


def collate_training(rows: Sequence[EncodedRow], pad_id: int) -> ModelInputs:
    """A right-padded batch with labels: the target and its end; neither the prompt nor padding is trained on."""
    texts = [torch.tensor(row["input_ids"], dtype=torch.long) for row in rows]
    labels = [text.clone() for text in texts]
    for row, label in zip(rows, labels, strict=True):
        label[: row["num_source_ids"]] = IGNORED_LABEL
    return ModelInputs(
        input_ids=_padded(texts, pad_id),
        attention_mask=_padded([torch.ones_like(text) for text in texts], 0),
        labels=_padded(labels, IGNORED_LABEL),
    )


def batch_width(longest: int) -> int:
    """How wide a batch is whose longest row has so many ids."""
    return -(-longest // _WIDTH_MULTIPLE) * _WIDTH_MULTIPLE


def _padded(rows: list[Tensor], value: int) -> Tensor:
    batch = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)
    longest = batch.shape[1]
    return nn.functional.pad(batch, (0, batch_width(longest) - longest), value=value)
