"""Joins two exported prefixes into one that stands before the text as a whole.

In: two bundles of one backbone. Out: what a bundle of `prefix_tuning` holds: settings and tensors, the second prefix's
positions after those of the first. Joined without training, prefixes disturb each other: each was trained alone with
the text, and both may begin with a position that only collects attention. So a join is measured before it is used.

Positions: where text positions are shifted, the second prefix keeps its distance to the text and the first moves away
from it. In rotary backbones this means that the keys of the second are rotated by the number of positions that were put
before them. Keys of learned positions hold their position for ever and stay as they are; T5 has no positions in keys.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ptl_prefix.artifacts.bundle import Bundle
from ptl_prefix.artifacts.manifest import Manifest
from ptl_prefix.backbones.attention_sites import select_layers
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.key_rotation import has_rotary_keys, moved_keys
from ptl_prefix.errors import BundleError
from ptl_prefix.methods.prefix_start import sink_tables
from ptl_prefix.methods.prefix_table import KeyValueTable

_SINK_DISTANCE = 0.05
"""Largest relative distance of a first position from the backbone's sink: both may have been computed in bfloat16."""


@dataclass(frozen=True)
class JoinedPrefix:
    """Two prefixes as one.

    Args:
        settings: Settings of the method, as a bundle has them.
        tensors: Tables of keys and values by `<site>.keys` and `<site>.values`, float32.
        num_first: Positions of the first prefix.
        num_second: Positions of the second prefix that are kept.
        num_dropped: Positions of the second prefix that are left out: 1 if both begin with the sink, else 0.
        moved_by: Positions by which the keys of the second prefix were moved; 0 if they were not.
    """

    settings: dict[str, Any]
    tensors: dict[str, Tensor]
    num_first: int
    num_second: int
    num_dropped: int
    moved_by: int


def join_problems(first: Manifest, second: Manifest) -> list[str]:
    """Why two bundles cannot be joined, from their manifests alone."""
    methods = [manifest.method for manifest in (first, second)]
    if set(methods) != {"prefix_tuning"}:
        return [f"Two bundles to join must be of prefix_tuning, but are of {' and '.join(methods)}."]
    parts: dict[str, list[Any]] = {
        "backbone": [_identity(manifest) for manifest in (first, second)],
        "dtype": [first.dtype, second.dtype],
        "layers": [manifest.settings.get("layers") for manifest in (first, second)],
        "sites": [manifest.settings.get("sites") for manifest in (first, second)],
        "position_law": [first.position_law, second.position_law],
        "prompt format": [first.prompt, second.prompt],
    }
    problems = [
        f"Two bundles to join must have the same {part}, but have {one!s:.200} and {other!s:.200}; train both alike."
        for part, (one, other) in parts.items()
        if one != other
    ]
    if first.position_law == "infix" and not problems:
        problems.append("Two bundles to join must stand before the prompt, but theirs are infixes, inside of it.")
    return problems


def _identity(manifest: Manifest) -> tuple[str | None, ...]:
    own = manifest.backbone
    return (own.family, own.weights_fingerprint, own.tokenizer_fingerprint, own.config_fingerprint, own.quantization)


def join_prefixes(first: Bundle, second: Bundle, backbone: Backbone) -> JoinedPrefix:
    """Join two bundles without `join_problems` that are of this backbone.

    Raises:
        BundleError: When the joined prefix leaves no positions for text.
        BackboneError: When the backbone's keys cannot be moved.
    """
    settings = first.manifest.settings
    selected = select_layers(backbone.geometry, sites=settings["sites"], layers=settings["layers"])
    one, other = ({site: _table(bundle, site) for site in selected} for bundle in (first, second))
    sinks = sink_tables(backbone, selected)
    num_dropped = int(starts_with_sink(one, sinks) and starts_with_sink(other, sinks))
    other = {site: table[:, :, :, num_dropped:] for site, table in other.items()}
    num_first, num_second = (next(iter(tables.values())).shape[3] for tables in (one, other))
    # Its keys were trained with the text right after its last position; the dropped one is no longer among them.
    moved_by = num_first - num_dropped if settings["position_law"] == "shifted" and has_rotary_keys(backbone) else 0
    length = num_first + num_second
    if (
        settings["position_law"] == "shifted"
        and backbone.max_positions is not None
        and length >= backbone.max_positions
    ):
        raise BundleError(
            f"Two bundles to join must be shorter than the {backbone.max_positions} positions of {backbone.name}, but "
            f"have {length} together."
        )
    tensors = {}
    for site, indices in selected.items():
        keys, values = other[site].unbind(1)
        if moved_by and keys.numel():
            keys = moved_keys(backbone, keys, layers=indices, by=moved_by).cpu()
        own_keys, own_values = one[site].unbind(1)
        tensors[f"{site}.keys"] = torch.cat([own_keys, keys], dim=2).contiguous()
        tensors[f"{site}.values"] = torch.cat([own_values, values], dim=2).contiguous()
    return JoinedPrefix({**settings, "prefix_length": length}, tensors, num_first, num_second, num_dropped, moved_by)


def starts_with_sink(tables: Mapping[str, Tensor], sinks: Mapping[str, Tensor]) -> bool:
    """Whether the first position of a prefix is the backbone's sink at every site, as with `frozen_sink`."""
    distances = [
        (table[:, :, :, :1] - sinks[site].to(table)).norm() / sinks[site].norm() for site, table in tables.items()
    ]
    return all(float(distance) < _SINK_DISTANCE for distance in distances)


def _table(bundle: Bundle, site: str) -> KeyValueTable:
    """The keys and values of a site, float32."""
    return torch.stack([bundle.tensors[f"{site}.keys"], bundle.tensors[f"{site}.values"]], dim=1).float()
