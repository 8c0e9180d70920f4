"""The attention modules of each model family, and the shape of a prefix there.

In: a transformers config, or a model. Out: its attention modules and their geometry, by site and layer.
A family is one entry in `FAMILIES`; the rest of the package uses sites and layers and never tests for a model type.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ptl_prefix.errors import BackboneError


@dataclass(frozen=True)
class SiteGeometry:
    """The shape of a prefix at one attention site: `num_layers` x (num_kv_heads, prefix, head_dim).

    Args:
        num_layers: Number of attention modules at this site.
        num_kv_heads: Number of key and value heads; fewer than query heads in grouped-query attention.
        head_dim: Width of one head, from the config if it states one.
    """

    num_layers: int
    num_kv_heads: int
    head_dim: int

    @property
    def kv_width(self) -> int:
        """Size of one position's key in one layer, all heads together; its value has the same size."""
        return self.num_kv_heads * self.head_dim


Geometry = Mapping[str, SiteGeometry]
"""The geometry of every attention site of a backbone, by site name."""


@dataclass(frozen=True)
class SiteLayout:
    """Path of a site's attention modules, and the config's names for their numbers.

    Args:
        path: Path of the modules; `*` stands for the layer's index.
        num_layers: The config's name for the number of layers.
        num_heads: The config's name for the number of query heads.
    """

    path: str
    num_layers: str = "num_hidden_layers"
    num_heads: str = "num_attention_heads"


@dataclass(frozen=True)
class Family:
    """Facts of a model family that its config does not state.

    Args:
        sites: The layout of each site, by name: `encoder_self`, `decoder_self`, `decoder_cross`.
        has_learned_positions: Whether positions are rows of a learned table, so that one past
            `max_position_embeddings` is an error rather than an extrapolation.
    """

    sites: Mapping[str, SiteLayout]
    has_learned_positions: bool = False


def _decoder_only(path: str, *, has_learned_positions: bool = False) -> Family:
    return Family({"decoder_self": SiteLayout(path)}, has_learned_positions=has_learned_positions)


_LLAMA_LIKE = _decoder_only("model.layers.*.self_attn")
_BART_LIKE = Family(
    {
        "encoder_self": SiteLayout("model.encoder.layers.*.self_attn", "encoder_layers", "encoder_attention_heads"),
        "decoder_self": SiteLayout("model.decoder.layers.*.self_attn", "decoder_layers", "decoder_attention_heads"),
        "decoder_cross": SiteLayout("model.decoder.layers.*.encoder_attn", "decoder_layers", "decoder_attention_heads"),
    },
    has_learned_positions=True,
)
_T5_LIKE = Family(
    {
        "encoder_self": SiteLayout("encoder.block.*.layer.0.SelfAttention", "num_layers", "num_heads"),
        "decoder_self": SiteLayout("decoder.block.*.layer.0.SelfAttention", "num_decoder_layers", "num_heads"),
        "decoder_cross": SiteLayout("decoder.block.*.layer.1.EncDecAttention", "num_decoder_layers", "num_heads"),
    }
)

FAMILIES: Mapping[str, Family] = {
    "bart": _BART_LIKE,
    "gemma": _LLAMA_LIKE,
    "gemma2": _LLAMA_LIKE,
    "gemma3_text": _LLAMA_LIKE,
    "gpt2": _decoder_only("transformer.h.*.attn", has_learned_positions=True),
    "gpt_neox": _decoder_only("gpt_neox.layers.*.attention"),
    "llama": _LLAMA_LIKE,
    "mbart": _BART_LIKE,
    "mistral": _LLAMA_LIKE,
    "mt5": _T5_LIKE,
    "opt": _decoder_only("model.decoder.layers.*.self_attn", has_learned_positions=True),
    "qwen2": _LLAMA_LIKE,
    "qwen3": _LLAMA_LIKE,
    "t5": _T5_LIKE,
}
"""Families by transformers' `model_type`. A new family needs an entry here and one each in `linear_sites.py` and
`sublayers.py`, if it looks up its attention by name (`AttentionInterface`) and builds its masks through
`AttentionMaskInterface`."""


def family_of(config: Any) -> Family:
    """The family of a transformers config.

    Raises:
        BackboneError: When the family is not supported; the message names those that are.
    """
    try:
        return FAMILIES[config.model_type]
    except KeyError:
        raise BackboneError(
            "A backbone must be of a supported model family, "
            f"but '{config.model_type}' is not one; those are: {', '.join(sorted(FAMILIES))}."
        ) from None


def attention_modules(model: nn.Module, config: Any) -> dict[str, tuple[nn.Module, ...]]:
    """All attention modules of a model, by site, in layer order."""
    return {site: modules_at(model, layout.path) for site, layout in family_of(config).sites.items()}


def stacks_of(model: nn.Module, config: Any) -> dict[str, nn.ModuleList]:
    """The layer stacks of a model, by path, in the order of the forward pass: an encoder-decoder has two."""
    paths = dict.fromkeys(layout.path.partition(".*.")[0] for layout in family_of(config).sites.values())
    return {path: _stack_at(model, path) for path in paths}


def layers_of(model: nn.Module, config: Any) -> list[nn.Module]:
    """All layers of a model, each once, in the order of the forward pass."""
    return [layer for stack in stacks_of(model, config).values() for layer in stack]


def modules_at(model: nn.Module, path: str) -> tuple[nn.Module, ...]:
    """The modules at a path in which `*` stands for the layer's index, in layer order."""
    stack, _, attention = path.partition(".*.")
    return tuple(layer.get_submodule(attention) for layer in _stack_at(model, stack))


def _stack_at(model: nn.Module, path: str) -> nn.ModuleList:
    stack = model.get_submodule(path)
    assert isinstance(stack, nn.ModuleList)
    return stack


def geometry_of(config: Any) -> dict[str, SiteGeometry]:
    """The geometry of every site, from the config alone, so that no weights are needed."""
    return {site: _site_geometry(config, layout) for site, layout in family_of(config).sites.items()}


def num_query_heads(config: Any) -> dict[str, int]:
    """Number of query heads of every site, from the config alone; a multiple of its key and value heads."""
    return {site: getattr(config, layout.num_heads) for site, layout in family_of(config).sites.items()}


def select_layers(
    geometry: Geometry, *, sites: Sequence[str] | None, layers: Sequence[int] | None
) -> dict[str, list[int]]:
    """Indices of the selected layers, ascending, by site; a site without any is left out.

    Args:
        geometry: The geometry of the backbone.
        sites: Names of the sites to select from; `None` is every site.
        layers: Indices of the layers to select; `None` is every layer.
    """
    selected = {
        site: [layer for layer in range(shape.num_layers) if layers is None or layer in layers]
        for site, shape in geometry.items()
        if sites is None or site in sites
    }
    return {site: indices for site, indices in selected.items() if indices}


def lowest_layer(geometry: Geometry, selected: Mapping[str, Sequence[int]]) -> int:
    """Index of the lowest selected layer of a decoder-only backbone; 0 for an encoder-decoder, which has two stacks."""
    return min(index for indices in selected.values() for index in indices) if len(geometry) == 1 else 0


def layer_index(config: Any, path: str) -> int:
    """Index of the layer that a module is part of, by its path; 0 for a module outside the layers."""
    for layout in family_of(config).sites.values():
        stack = f"{layout.path.partition('.*.')[0]}."
        if path.startswith(stack):
            return int(path.removeprefix(stack).partition(".")[0])
    return 0


def _site_geometry(config: Any, layout: SiteLayout) -> SiteGeometry:
    num_heads = getattr(config, layout.num_heads)
    head_dim = getattr(config, "head_dim", None) or getattr(config, "d_kv", None)
    return SiteGeometry(
        num_layers=getattr(config, layout.num_layers),
        num_kv_heads=getattr(config, "num_key_value_heads", None) or num_heads,
        # As transformers does where a config states no head_dim.
        head_dim=head_dim or config.hidden_size // num_heads,
    )


def has_native_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16 matrix multiplication."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "mps":
        return False
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16") or capabilities.get("bf16"))
