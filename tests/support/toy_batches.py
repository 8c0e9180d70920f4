"""Batches small enough to read, what a backbone makes of them, and the few steps of training that tests take."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from support.tiny_backbones import EOS, PAD, VOCABULARY
from torch import Tensor

from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs, Padding, left_padded, prompt_batch
from ptl_prefix.data.collation import EncodedRow, collate_training
from ptl_prefix.evaluation.loss import target_loss
from ptl_prefix.methods.method import Method
from ptl_prefix.methods.start_inputs import StartInputs

EQUAL: Mapping[str, Any] = {"rtol": 1e-5, "atol": 1e-5}
"""When two ways of computing the same logits in float32 agree."""

Side = Literal["left", "right"]


class ToyRows:
    """Training rows to start from: six examples, of which the second has two targets."""

    EXAMPLES = (0, 1, 1, 2, 3, 4, 5)

    def __len__(self) -> int:
        return len(self.EXAMPLES)

    def rows(self, indices: Sequence[int]) -> list[EncodedRow]:
        """Rows with a prompt of 3 to 8 ids, a target of 4, and its end."""
        found = [(index, self.EXAMPLES[index]) for index in indices]
        return [
            EncodedRow(
                input_ids=[*random_ids(3 + example, seed=example), *random_ids(4, seed=50 + index), EOS],
                num_source_ids=3 + example,
                example=example,
            )
            for index, example in found
        ]


def toy_start_inputs() -> StartInputs:
    """What a task without labels would give a method."""
    return StartInputs(instruction="the cat sat on the mat", training_rows=ToyRows(), gives_rows=True)


def random_ids(length: int, seed: int) -> list[int]:
    """Ids of a text without special ones."""
    generator = torch.Generator().manual_seed(seed)
    ids: list[int] = torch.randint(PAD + 1, VOCABULARY, (length,), generator=generator).tolist()
    return ids


def packable_pairs() -> list[EncodedRow]:
    """Pairs of three examples: the first has three targets, the last two; their lengths make padding in any row."""
    sizes = {0: (6, [3, 7, 2]), 1: (3, [5]), 2: (9, [4, 4])}
    return [
        EncodedRow(
            input_ids=[*random_ids(num_source, seed=example), *random_ids(num, seed=10 * example + number), EOS],
            num_source_ids=num_source,
            example=example,
        )
        for example, (num_source, nums) in sizes.items()
        for number, num in enumerate(nums)
    ]


def texts() -> list[list[int]]:
    """Three texts of unequal length."""
    return [random_ids(length, seed=length) for length in (9, 5, 2)]


def padded(rows: Sequence[list[int]], side: Side, backbone: Backbone | None = None) -> ModelInputs:
    """One batch of texts, padded on one side, as generation or training has it.

    An encoder-decoder reads the texts, always padded on the right, and has written others: long ones where the source
    is short.
    """
    start = _padding(backbone).decoder_start_ids
    if start is None and side == "left":
        return left_padded(rows, PAD)
    if start is None:
        batch = collate_training([EncodedRow(input_ids=row, num_source_ids=0, example=0) for row in rows], Padding(PAD))
    else:
        written = [random_ids(12 - len(row), seed=100 + len(row)) for row in rows]
        pairs = zip(rows, written, strict=True)
        encoded = [EncodedRow(input_ids=[*row, *text], num_source_ids=len(row), example=0) for row, text in pairs]
        batch = collate_training(encoded, Padding(PAD, start))
    return batch.replace(labels=None)


def unpadded(num_rows: int = 2, length: int = 6, backbone: Backbone | None = None) -> ModelInputs:
    """A batch without any padding, for which transformers likes to leave masks out."""
    rows = [random_ids(length, seed=row) for row in range(num_rows)]
    return prompt_batch(rows, _padding(backbone))


def _padding(backbone: Backbone | None) -> Padding:
    return Padding(PAD, None if backbone is None else backbone.prompter(PromptFormat()).decoder_start_ids)


def training_batch(backbone: Backbone | None = None) -> ModelInputs:
    """Four prompts and targets of unequal length, each target with its end."""
    rows = [
        EncodedRow(
            input_ids=[*random_ids(source, seed=source), *random_ids(target, seed=50 + target), EOS],
            num_source_ids=source,
            example=index,
        )
        for index, (source, target) in enumerate([(6, 5), (3, 7), (4, 2), (8, 4)])
    ]
    return collate_training(rows, _padding(backbone))


@torch.no_grad()
def text_logits(backbone: Backbone, inputs: ModelInputs) -> list[Tensor]:
    """For each row the logits at its written text, (text, vocabulary); what stands at padding means nothing."""
    logits = backbone.logits(inputs)
    return [row[mask.bool()] for row, mask in zip(logits, written_mask(inputs), strict=True)]


def written_mask(inputs: ModelInputs) -> Tensor:
    """Where there is text among what is written."""
    return inputs.attention_mask if inputs.decoder_attention_mask is None else inputs.decoder_attention_mask


def train(backbone: Backbone, method: Method, *, steps: int, lr: float = 1e-2) -> list[float]:
    """Train on one batch; the mean loss before each step, in nats per token."""
    batch = training_batch(backbone)
    optimizer = torch.optim.AdamW(method.trainable_parameters().values(), lr=lr, weight_decay=0.0)
    losses = []
    for _ in range(steps):
        loss = target_loss(backbone, method, batch)
        (loss.nats / loss.num_tokens).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.nats.detach()) / loss.num_tokens)
    return losses
