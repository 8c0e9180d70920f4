"""Where each model family keeps its attention, and the shape of what a prefix must be there.

A family is one entry in `FAMILIES`. The rest of the package speaks of sites (`decoder_self`) and layers, and never asks
what a model is called.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ptl_prefix.errors import BackboneError


@dataclass(frozen=True)
class SiteGeometry:
    """What a prefix at one attention site looks like: `num_layers` x (num_kv_heads, prefix, head_dim).

    Args:
        num_layers: Attention modules at this site.
        num_kv_heads: Heads of keys and values; fewer than query heads where they are grouped.
        head_dim: Width of one head, as the model states it; never hidden size over heads.
    """

    num_layers: int
    num_kv_heads: int
    head_dim: int

    @property
    def kv_width(self) -> int:
        """Numbers in one position's keys of one layer; as many again in its values."""
        return self.num_kv_heads * self.head_dim


Geometry = Mapping[str, SiteGeometry]
"""The geometry of every attention site of a backbone, by site name."""


@dataclass(frozen=True)
class Family:
    """What must be known of a model family that its config does not say.

    Args:
        sites: Site name to the path of its attention modules; `*` stands for the layer's index.
        has_learned_positions: Whether a position past `max_position_embeddings` is an error (a table of learned rows)
            rather than an extrapolation.
    """

    sites: Mapping[str, str]
    has_learned_positions: bool


FAMILIES: Mapping[str, Family] = {
    "gpt2": Family({"decoder_self": "transformer.h.*.attn"}, has_learned_positions=True),
    "llama": Family({"decoder_self": "model.layers.*.self_attn"}, has_learned_positions=False),
}


def family_of(config: Any) -> Family:
    """The family of a transformers config.

    Raises:
        BackboneError: Naming the families that work, when this one does not.
    """
    try:
        return FAMILIES[config.model_type]
    except KeyError:
        raise BackboneError(
            "A backbone must be of a family whose attention a prefix can reach, "
            f"but '{config.model_type}' is not one; those are: {', '.join(sorted(FAMILIES))}."
        ) from None


def attention_modules(model: nn.Module, config: Any) -> dict[str, tuple[nn.Module, ...]]:
    """Every attention module of a model, by site, in layer order."""
    return {site: _modules_at(model, path) for site, path in family_of(config).sites.items()}


def _modules_at(model: nn.Module, path: str) -> tuple[nn.Module, ...]:
    layers, _, attention = path.partition(".*.")
    stack = model.get_submodule(layers)
    assert isinstance(stack, nn.ModuleList)
    return tuple(layer.get_submodule(attention) for layer in stack)


def geometry_of(config: Any) -> dict[str, SiteGeometry]:
    """The geometry of every site, read from the config alone, so that no weights are needed."""
    num_heads = config.num_attention_heads
    num_kv_heads = getattr(config, "num_key_value_heads", None) or num_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // num_heads
    return {
        site: SiteGeometry(num_layers=config.num_hidden_layers, num_kv_heads=num_kv_heads, head_dim=head_dim)
        for site in family_of(config).sites
    }


def has_native_bfloat16(device: torch.device) -> bool:
    """Whether a processor multiplies bfloat16 matrices with instructions of its own."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "mps":
        return False
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16") or capabilities.get("bf16"))
