"""The inputs of one forward pass, which data makes and methods condition.

In: token ids. Out: `ModelInputs`, padded batches of them.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ptl_prefix.backbones.layer_input import LayerInput
from ptl_prefix.backbones.text_layout import TextLayout

IGNORED_LABEL = -100
"""The label of a position that is not trained on; cross-entropy skips it."""


@dataclass(frozen=True)
class Padding:
    """The ids that a batch holds besides its texts.

    Args:
        pad_id: Id that fills short rows; it is masked, so its value changes no result.
        decoder_start_ids: Ids that the decoder's text starts with in an encoder-decoder; `None` for a decoder-only
            backbone, which has one text.
    """

    pad_id: int
    decoder_start_ids: Sequence[int] | None = None


@dataclass(frozen=True)
class TeacherTargets:
    """The tokens that a teacher finds most likely at the positions of a batch's labels.

    Args:
        ids: Their ids, at the position of the label that they compete with; any id where there is none.
        log_probs: Their log-probabilities, in nats; -inf where there is no token.
    """

    ids: Int[Tensor, "batch written kept"]
    log_probs: Float[Tensor, "batch written kept"]

    def to(self, device: torch.device | str) -> Self:
        """A copy on another device."""
        return dataclasses.replace(self, ids=self.ids.to(device), log_probs=self.log_probs.to(device))


@dataclass(frozen=True)
class ModelInputs:
    """A batch of token ids and what a method adds to it.

    A decoder-only backbone has one text, `input_ids`. An encoder-decoder encodes `input_ids` and decodes
    `decoder_input_ids`. The axis `written` is that of `decoder_input_ids` if there are any, else of `input_ids`.

    Args:
        input_ids: Token ids of the text, padding included.
        attention_mask: 1 for text, 0 for padding.
        labels: Target ids at their own positions (as in transformers' decoder-only models: compared with the logits
            one position earlier), `IGNORED_LABEL` elsewhere; `None` for generation.
        position_ids: Positions of the text; `None` until a method sets them, see `with_positions`, and always `None`
            for an encoder-decoder, which computes its own.
        decoder_input_ids: Token ids of an encoder-decoder's target, start token included, padded on the right.
        decoder_attention_mask: 1 for text, 0 for padding of `decoder_input_ids`.
        prompt_rows: Embeddings that an encoder reads before every row of the text; `None` for none.
        teacher: What a teacher expects in place of each label; `None` if the labels themselves are learned.
        layout: Parts of the rows of a decoder-only backbone, if a row holds more than one text; else `None`.
        layer_input: Input of a layer, computed before, at which the forward pass starts; `None` starts at the ids.
    """

    input_ids: Int[Tensor, "batch text"]
    attention_mask: Int[Tensor, "batch text"]
    labels: Int[Tensor, "batch written"] | None = None
    position_ids: Int[Tensor, "batch text"] | None = None
    decoder_input_ids: Int[Tensor, "batch written"] | None = None
    decoder_attention_mask: Int[Tensor, "batch written"] | None = None
    prompt_rows: Float[Tensor, "prompt width"] | None = None
    teacher: TeacherTargets | None = None
    layout: TextLayout | None = None
    layer_input: LayerInput | None = None

    @property
    def num_rows(self) -> int:
        """Number of rows in the batch."""
        return self.input_ids.shape[0]

    @property
    def num_columns_read(self) -> int:
        """Number of columns of the source, padding and prompt rows included."""
        return self.input_ids.shape[1] + (0 if self.prompt_rows is None else self.prompt_rows.shape[0])

    @property
    def num_tokens(self) -> int:
        """Number of tokens, padding left out."""
        masks = (self.attention_mask, self.decoder_attention_mask)
        return sum(int(mask.sum()) for mask in masks if mask is not None)

    @property
    def next_labels(self) -> Int[Tensor, "batch written"]:
        """Labels shifted to the positions whose logits predict them; `IGNORED_LABEL` where nothing is predicted."""
        assert self.labels is not None
        return torch.nn.functional.pad(self.labels[:, 1:], (0, 1), value=IGNORED_LABEL)

    @property
    def first_written(self) -> Int[Tensor, " batch"]:
        """For each row, the column whose logits predict the first target token: the last column of the prompt."""
        if self.layout is not None:
            raise ValueError("A row of several texts has no single column after which its target begins.")
        columns = torch.arange(self.input_ids.shape[1], device=self.input_ids.device)
        if self.labels is None:
            return torch.where(self.attention_mask.bool(), columns, 0).amax(dim=1)
        return (self.next_labels != IGNORED_LABEL).int().argmax(dim=1)

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to(self, device: torch.device | str) -> Self:
        """A copy on another device."""
        moved = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return self.replace(**{name: value.to(device) for name, value in moved.items() if value is not None})

    def with_positions(self, offset: Int[Tensor, "#batch"] | Int[Tensor, "#batch text"] | int = 0) -> Self:
        """A copy with positions that count text only, so that padding on either side changes nothing.

        Left padding gets position `offset`; no query attends to it. Inputs of an encoder-decoder, which computes its
        own positions, are returned unchanged.

        Args:
            offset: Position of the first text token: one number, one per row, or a shift per column.
        """
        if self.decoder_input_ids is not None:
            return self
        if isinstance(offset, Tensor):
            offset = offset.to(self.input_ids.device).view(offset.shape[0], -1)
        counted = self.attention_mask.cumsum(-1) - 1 if self.layout is None else self.layout.positions
        positions = counted.clamp(min=0) + offset
        return self.replace(position_ids=positions)


def prompt_batch(prompts: Sequence[Sequence[int]], padding: Padding) -> ModelInputs:
    """A batch of prompts, ready for generation.

    Args:
        prompts: Token ids of each prompt.
        padding: Pad id and decoder start ids. Without start ids the prompts are padded on the left, so that all of
            them end where generation begins.
    """
    if padding.decoder_start_ids is None:
        return left_padded(prompts, padding.pad_id)
    started = torch.tensor([list(padding.decoder_start_ids)]).expand(len(prompts), -1)
    # An encoder's positions count from the left edge, so its padding must be on the right.
    return _padded(prompts, padding.pad_id, side="right").replace(
        decoder_input_ids=started, decoder_attention_mask=torch.ones_like(started)
    )


def left_padded(prompts: Sequence[Sequence[int]], pad_id: int) -> ModelInputs:
    """A batch of prompts padded on the left, so that all end in the last column."""
    return _padded(prompts, pad_id, side="left")


def _padded(prompts: Sequence[Sequence[int]], pad_id: int, *, side: Literal["left", "right"]) -> ModelInputs:
    texts = [torch.tensor(list(prompt), dtype=torch.long) for prompt in prompts]
    pad = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True, padding_side=side)
    return ModelInputs(
        input_ids=pad(texts, padding_value=pad_id),
        attention_mask=pad([torch.ones_like(text) for text in texts], padding_value=0),
    )
