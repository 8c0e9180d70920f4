"""Joins prefixes into one that stands before the text as a whole.

In: two bundles of one backbone. Out: what a bundle of `prefix_tuning` holds: settings and tensors, the second prefix's
positions after those of the first. Joined without training, prefixes disturb each other: each was trained alone with
the text, and both may begin with a position that only collects attention. So a join is measured before it is used.

Positions: where text positions are shifted, the second prefix keeps its distance to the text and the first moves away
from it. In rotary backbones this means that the keys of the second are rotated by the number of positions that were put
before them. Keys of learned positions hold their position for ever and stay as they are; T5 has no positions in keys.
"""

from collections.abc import Mapping, Sequence
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
    one, other = (bundle_prefix(bundle, backbone, selected) for bundle in (first, second))
    num_dropped = int(one.has_sink and other.has_sink)
    num_first, num_second = one.length, other.length - num_dropped
    is_shifted = settings["position_law"] == "shifted"
    length = num_first + num_second
    if is_shifted and backbone.max_positions is not None and length >= backbone.max_positions:
        raise BundleError(
            f"Two bundles to join must be shorter than the {backbone.max_positions} positions of {backbone.name}, but "
            f"have {length} together."
        )
    joined = stand_together([one, other], backbone, selected, is_shifted=is_shifted)
    tensors: dict[str, Tensor] = {}
    for site, table in joined.tables.items():
        keys, values = table.unbind(1)
        tensors |= {f"{site}.keys": keys.cpu().contiguous(), f"{site}.values": values.cpu().contiguous()}
    return JoinedPrefix(
        settings={**settings, "prefix_length": length},
        tensors=tensors,
        num_first=num_first,
        num_second=num_second,
        num_dropped=num_dropped,
        moved_by=num_first - num_dropped if is_shifted and has_rotary_keys(backbone) else 0,
    )


@dataclass(frozen=True)
class SitePrefix:
    """A prefix as keys and values.

    Args:
        tables: Keys and values of the selected layers, by site.
        has_sink: Whether the first position is the backbone's sink.
    """

    tables: Mapping[str, KeyValueTable]
    has_sink: bool

    @property
    def length(self) -> int:
        """Number of positions."""
        return next(iter(self.tables.values())).shape[3]


def bundle_prefix(bundle: Bundle, backbone: Backbone, layers: Mapping[str, Sequence[int]]) -> SitePrefix:
    """The prefix of a bundle, float32 on the backbone's device.

    Args:
        bundle: Bundle of `prefix_tuning`.
        backbone: Its backbone.
        layers: Indices of the layers of each table, by site.
    """
    tables = {site: _table(bundle, site).to(backbone.device) for site in layers}
    return SitePrefix(tables, starts_with_sink(tables, sink_tables(backbone, layers)))


def stand_together(
    prefixes: Sequence[SitePrefix], backbone: Backbone, layers: Mapping[str, Sequence[int]], *, is_shifted: bool
) -> SitePrefix:
    """Prefixes one after another, as one; gradients reach their tables.

    Only the first sink is kept. Where text positions are shifted, each prefix but the first is moved from the positions
    at which it was trained to those that it has now.

    Args:
        prefixes: Prefixes in their order.
        backbone: Their backbone.
        layers: Indices of the layers of each table, by site.
        is_shifted: Whether text positions start after the prefix.

    Raises:
        BackboneError: When the backbone's keys cannot be moved.
    """
    together, *rest = prefixes
    for prefix in rest:
        num_dropped = int(together.has_sink and prefix.has_sink)
        # Its keys were trained from position 0 on; the dropped one is no longer among them.
        by = together.length - num_dropped if is_shifted and has_rotary_keys(backbone) else 0
        tables = {
            site: torch.cat([table, _moved(prefix.tables[site][:, :, :, num_dropped:], backbone, layers[site], by)], 3)
            for site, table in together.tables.items()
        }
        together = SitePrefix(tables, together.has_sink)
    return together


def _moved(table: KeyValueTable, backbone: Backbone, layers: Sequence[int], by: int) -> KeyValueTable:
    """A table with its keys moved by a number of positions."""
    if not by or not table.numel():
        return table
    keys, values = table.unbind(1)
    return torch.stack([moved_keys(backbone, keys, layers=layers, by=by), values], dim=1)


def starts_with_sink(tables: Mapping[str, Tensor], sinks: Mapping[str, Tensor]) -> bool:
    """Whether the first position of a prefix is the backbone's sink at every site, as with `frozen_sink`."""
    distances = [
        (table[:, :, :, :1] - sinks[site].to(table)).norm() / sinks[site].norm() for site, table in tables.items()
    ]
    return all(float(distance) < _SINK_DISTANCE for distance in distances)


def _table(bundle: Bundle, site: str) -> KeyValueTable:
    """The keys and values of a site, float32."""
    return torch.stack([bundle.tensors[f"{site}.keys"], bundle.tensors[f"{site}.values"]], dim=1).float()
