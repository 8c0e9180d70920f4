"""What one forward pass takes: the word that data and methods share."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from jaxtyping import Int
from torch import Tensor

IGNORED_LABEL = -100
"""The label of a position that is not trained on; cross-entropy skips it."""


@dataclass(frozen=True)
class ModelInputs:
    """A batch of token ids and what a method adds to it.

    Args:
        input_ids: Token ids of the text, padding included.
        attention_mask: 1 where there is text, 0 where there is padding.
        labels: The id to predict *at* its own position (as in transformers: the model's logits one position earlier are
            compared with it); `IGNORED_LABEL` elsewhere. `None` when generating.
        position_ids: Positions of the text. `None` until something decides them; see `with_positions`.
    """

    input_ids: Int[Tensor, "batch text"]
    attention_mask: Int[Tensor, "batch text"]
    labels: Int[Tensor, "batch text"] | None = None
    position_ids: Int[Tensor, "batch text"] | None = None

    @property
    def num_rows(self) -> int:
        """Rows of the batch."""
        return self.input_ids.shape[0]

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to(self, device: torch.device | str) -> Self:
        """A copy on another device."""
        moved = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return self.replace(**{name: value.to(device) for name, value in moved.items() if value is not None})

    def with_positions(self, offset: Int[Tensor, "#batch"] | int = 0) -> Self:
        """Positions that count text only, so that padding on either side changes nothing, starting at `offset`.

        Padding gets position `offset` (any legal one would do: nobody attends to it).
        """
        if isinstance(offset, Tensor):
            offset = offset.to(self.input_ids.device)[:, None]
        positions = (self.attention_mask.cumsum(-1) - 1).clamp(min=0) + offset
        return self.replace(position_ids=positions)


def left_padded(prompts: Sequence[Sequence[int]], pad_id: int) -> ModelInputs:
    """A batch of prompts that all end where generation begins."""
    texts = [torch.tensor(list(prompt), dtype=torch.long) for prompt in prompts]
    return ModelInputs(
        input_ids=_pad_left(texts, pad_id), attention_mask=_pad_left([torch.ones_like(text) for text in texts], 0)
    )


def _pad_left(rows: Sequence[Tensor], value: int) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value, padding_side="left")
