"""What one forward pass takes: the word that data and methods share."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

IGNORED_LABEL = -100
"""The label of a position that is not trained on; cross-entropy skips it."""


@dataclass(frozen=True)
class ModelInputs:
    """A batch of token ids and what a method adds to it.

    A decoder-only backbone reads and writes one text. An encoder-decoder reads `input_ids` and writes
    `decoder_input_ids`. Below, `written` is the text that is written: the latter if there is one, else the former.

    Args:
        input_ids: Token ids of the text that is read, padding included.
        attention_mask: 1 where there is text, 0 where there is padding.
        labels: The id to predict *at* its own position of the written text (as transformers has it in decoder-only
            models: the logits one position earlier are compared with it); `IGNORED_LABEL` elsewhere. `None` when
            generating.
        position_ids: Positions of the text. `None` until something decides them, see `with_positions`; always `None`
            for an encoder-decoder, which counts by itself.
        decoder_input_ids: What an encoder-decoder has written so far, its start included; padded on the right.
        decoder_attention_mask: Where that is text.
        prompt_rows: Embeddings that an encoder reads before every row of the text, as if they were tokens of it.
    """

    input_ids: Int[Tensor, "batch text"]
    attention_mask: Int[Tensor, "batch text"]
    labels: Int[Tensor, "batch written"] | None = None
    position_ids: Int[Tensor, "batch text"] | None = None
    decoder_input_ids: Int[Tensor, "batch written"] | None = None
    decoder_attention_mask: Int[Tensor, "batch written"] | None = None
    prompt_rows: Float[Tensor, "prompt width"] | None = None

    @property
    def num_rows(self) -> int:
        """Rows of the batch."""
        return self.input_ids.shape[0]

    @property
    def num_columns_read(self) -> int:
        """Columns that are read, padding and what a method puts before the text included."""
        return self.input_ids.shape[1] + (0 if self.prompt_rows is None else self.prompt_rows.shape[0])

    @property
    def num_tokens(self) -> int:
        """Tokens read and written, padding left out."""
        masks = (self.attention_mask, self.decoder_attention_mask)
        return sum(int(mask.sum()) for mask in masks if mask is not None)

    @property
    def next_labels(self) -> Int[Tensor, "batch written"]:
        """What the logits at each position of the written text are compared with: `IGNORED_LABEL` for nothing."""
        assert self.labels is not None
        return torch.nn.functional.pad(self.labels[:, 1:], (0, 1), value=IGNORED_LABEL)

    @property
    def first_written(self) -> Int[Tensor, " batch"]:
        """The column, one a row, whose logits say the first token that is written: the last one of the prompt."""
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
        """Positions that count text only, so that padding on either side changes nothing, starting at `offset`.

        Padding gets position `offset` (any legal one would do: nobody attends to it). An encoder-decoder counts its own
        positions: these inputs are returned as they are.

        Args:
            offset: One number for all, one a row, or one a position.
        """
        if self.decoder_input_ids is not None:
            return self
        if isinstance(offset, Tensor):
            offset = offset.to(self.input_ids.device).view(offset.shape[0], -1)
        positions = (self.attention_mask.cumsum(-1) - 1).clamp(min=0) + offset
        return self.replace(position_ids=positions)


def prompt_batch(
    prompts: Sequence[Sequence[int]], pad_id: int, decoder_start_ids: Sequence[int] | None = None
) -> ModelInputs:
    """A batch of prompts, ready for generation.

    Args:
        prompts: Ids of each.
        pad_id: Fills the gaps; masked.
        decoder_start_ids: What an encoder-decoder's text starts with; `None` for a decoder-only backbone, whose
            prompts must all end where generation begins.
    """
    if decoder_start_ids is None:
        return left_padded(prompts, pad_id)
    started = torch.tensor([list(decoder_start_ids)]).expand(len(prompts), -1)
    # An encoder's positions count from the left edge, so its padding must be on the right.
    return _padded(prompts, pad_id, side="right").replace(
        decoder_input_ids=started, decoder_attention_mask=torch.ones_like(started)
    )


def left_padded(prompts: Sequence[Sequence[int]], pad_id: int) -> ModelInputs:
    """A batch of prompts that all end where generation begins."""
    return _padded(prompts, pad_id, side="left")


def _padded(prompts: Sequence[Sequence[int]], pad_id: int, *, side: Literal["left", "right"]) -> ModelInputs:
    texts = [torch.tensor(list(prompt), dtype=torch.long) for prompt in prompts]
    pad = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True, padding_side=side)
    return ModelInputs(
        input_ids=pad(texts, padding_value=pad_id),
        attention_mask=pad([torch.ones_like(text) for text in texts], padding_value=0),
    )
