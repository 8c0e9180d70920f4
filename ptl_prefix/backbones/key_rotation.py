"""Moves keys of rotary backbones to other positions.

In: keys after the rotary embedding, as prefixes have them, and a distance. Out: the keys that the same vectors would
have that many positions later. A rotation by a position and then by a distance is the rotation by their sum, so the
keys before the rotary embedding are not needed.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.errors import BackboneError

_MOVABLE = ("default", "linear", "llama3", "yarn", "proportional")
"""Kinds of rotary embeddings whose frequencies do not depend on the length of the text."""


def has_rotary_keys(backbone: Backbone) -> bool:
    """Whether keys depend on their position by rotation, so that they can be moved."""
    return _rotary_module(backbone) is not None


def moved_keys(
    backbone: Backbone, keys: Float[Tensor, "layers kv_heads prefix head_dim"], *, layers: Sequence[int], by: int
) -> Float[Tensor, "layers kv_heads prefix head_dim"]:
    """Keys of a rotary backbone, moved by a number of positions.

    Args:
        backbone: A backbone with `has_rotary_keys`.
        keys: Keys after the rotary embedding.
        layers: Index of each layer of `keys`: some families rotate by other frequencies in some layers.
        by: Number of positions; negative moves keys to earlier ones.

    Raises:
        BackboneError: When the frequencies depend on the length of the text, so that no fixed rotation exists.
    """
    found = _rotary_module(backbone)
    assert found is not None, "keys of learned or relative positions cannot be moved"
    # Made anew: the model's own frequencies may have been cast to its dtype.
    rotary = type(found)(config=backbone.config)
    return torch.stack(
        [
            _rotated(layer_keys.float(), _frequencies(rotary, backbone.config, layer), by)
            for layer_keys, layer in zip(keys, layers, strict=True)
        ]
    )


def _rotary_module(backbone: Backbone) -> Any:
    modules = (module for module in backbone.model.modules() if hasattr(module, "rope_type"))
    return next(modules, None)


def _frequencies(rotary: Any, config: Any, layer: int) -> Tensor:
    """Radians per position of each pair of channels, float32."""
    kind, name = rotary.rope_type, "inv_freq"
    if isinstance(kind, dict):
        layer_type = config.layer_types[layer]
        kind, name = kind[layer_type], f"{layer_type}_inv_freq"
    if kind not in _MOVABLE:
        raise BackboneError(
            f"Keys can be moved where a rotary embedding is one of {', '.join(_MOVABLE)}, but this backbone's is "
            f"'{kind}', which depends on the length of the text."
        )
    frequencies: Tensor = getattr(rotary, name)
    return frequencies.float()


def _rotated(keys: Tensor, frequencies: Tensor, by: int) -> Tensor:
    """Rotate the first channels, two for each frequency; the rest has no rotation (GPT-NeoX)."""
    angles = (by * frequencies.to(keys.device)).repeat(2)  # (rotated,)
    rotated, kept = keys[..., : len(angles)], keys[..., len(angles) :]
    left, right = rotated.chunk(2, dim=-1)
    turned = rotated * angles.cos() + torch.cat([-right, left], dim=-1) * angles.sin()
    return torch.cat([turned, kept], dim=-1)
