"""Several texts in one row of a batch, and targets that branch from one prompt.

In: for each token its part of the row, and the part that this one continues. Out: the positions of the tokens, and who
attends to whom. A row may hold

    | prompt A | target A1 | target A2 | prompt and target B |

where both targets continue prompt A: its keys and values are computed once. A token attends to its own part up to
itself, and to all of the part that its own continues; never to another example. What stands before all text, a prefix,
is visible to each.
"""

from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ptl_prefix.backbones.attention_masks import Masks, masks_by_layer_type

NO_PART = -1
"""The part of padding, and what a part continues that begins an example."""


@dataclass(frozen=True)
class TextLayout:
    """Where the parts of each row are.

    Args:
        part: Number of each token's part in its row; `NO_PART` for padding, which attends to padding alone.
        continues: Number of the part that it continues; `NO_PART` for none.
        positions: Position of each token in its own example, from 0.
    """

    part: Int[Tensor, "batch text"]
    continues: Int[Tensor, "batch text"]
    positions: Int[Tensor, "batch text"]

    def masks(self, config: Any) -> Masks:
        """Which tokens each token attends to, in the form that the family's forward expects.

        Args:
            config: The model's transformers config.
        """
        visible = self._visible()
        # In an example, a layer with a window sees the nearest positions, wherever in the row they are.
        distance = self.positions[:, :, None] - self.positions[:, None, :]  # (batch, queries, keys)
        return masks_by_layer_type(visible, distance, config)

    def to(self, device: torch.device | str) -> Self:
        """A copy on another device."""
        return type(self)(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    def _visible(self) -> Bool[Tensor, "batch text text"]:
        columns = torch.arange(self.part.shape[1], device=self.part.device)
        keys = self.part[:, None, :]  # (batch, 1, keys)
        same = (self.part[:, :, None] == keys) & (columns[:, None] >= columns)
        continued = (self.continues[:, :, None] == keys) & (keys != NO_PART)
        return same | continued
