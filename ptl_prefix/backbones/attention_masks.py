"""Masks of rows of text with unequal lengths, for forward passes that continue from a cache.

In: the text column of each new token. Out: which columns it sees, in the form that the family's forward expects.
"""

from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

Masks = Bool[Tensor, "rows 1 new keys"] | dict[str, Bool[Tensor, "rows 1 new keys"]]


def text_masks(columns: Int[Tensor, "rows new"], width: int, config: Any) -> Masks:
    """The masks of a forward pass: a token sees the text up to itself, in layers with a window the nearest of it.

    Args:
        columns: The text column of each new token.
        width: Number of text columns, the new ones included.
        config: The model's transformers config.

    Returns:
        One mask, or, for families whose layers differ, one for each type of layer.
    """
    distance = columns[..., None] - torch.arange(width, device=columns.device)  # (rows, new, keys)
    return masks_by_layer_type(distance >= 0, distance, config)


def masks_by_layer_type(
    visible: Bool[Tensor, "rows new keys"], distance: Int[Tensor, "rows new keys"], config: Any
) -> Masks:
    """Masks in the form that the family's forward expects.

    Args:
        visible: Where a token sees a key in a layer without a window.
        distance: Position of the token less that of the key; in a layer with a window it is less than the window.
        config: The model's transformers config.

    Returns:
        One mask, or, for families whose layers differ, one for each type of layer.
    """
    window: int | None = getattr(config, "sliding_window", None)
    types = set(getattr(config, "layer_types", None) or ())
    if window is None or types == {"full_attention"}:
        return visible[:, None]
    near = visible & (distance < window)
    if not types:  # every layer has the window
        return near[:, None]
    return {name: (near if name == "sliding_attention" else visible)[:, None] for name in types}


def additive(masks: Masks, dtype: torch.dtype) -> Any:
    """The same masks as numbers that are added to scores, as transformers' eager attention needs them.

    It would add a mask of truth values as ones and zeros, and hide nothing.
    """
    if isinstance(masks, dict):
        return {name: additive(mask, dtype) for name, mask in masks.items()}
    return torch.zeros_like(masks, dtype=dtype).masked_fill(~masks, torch.finfo(dtype).min)
