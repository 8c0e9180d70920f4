"""Initialises a prefix: at random, from the backbone's own activations, from words, or from an exported prefix.

In: new tables, a backbone, and the settings of `init`. Out: initialised tables. Initialisation decides much of the
result of a short training (Li & Liang, 2021, section 7.4).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ptl_prefix.artifacts.bundle import read_bundle
from ptl_prefix.artifacts.bundle_folder import find_bundle
from ptl_prefix.artifacts.manifest import Manifest, read_manifest
from ptl_prefix.backbones.attention_sites import Geometry
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.observation import observed_stds, observed_text
from ptl_prefix.methods.prefix_table import EmbeddingTable, KeyValueTable, PrefixTable

Init = Literal["random", "zero_values", "text", "bundle"]


@dataclass(frozen=True, kw_only=True)
class PrefixStart:
    """The initialisation of a prefix.

    Args:
        init: Kind of initial values; see `PrefixTuning`.
        text: Words for `init=text`.
        bundle: Folder of the bundle for `init=bundle`.
        prefix_length: Number of prefix positions, the frozen one included.
        num_frozen: Number of frozen positions at the start of the prefix, 0 or 1.
    """

    init: Init
    text: str | None
    bundle: str | None
    prefix_length: int
    num_frozen: int

    def initialise(
        self, tables: Mapping[str, PrefixTable], backbone: Backbone, layers: Mapping[str, Sequence[int]]
    ) -> str | None:
        """Initialise tables in place.

        Args:
            tables: New tables of the trained positions, by site.
            backbone: The backbone, with weights.
            layers: Indices of the layers of each table, by site.

        Returns:
            A remark for the user; `None` if there is none.
        """
        if self.init in ("random", "zero_values"):
            _match_stds(tables, backbone, layers, zero_values=self.init == "zero_values")
            return None
        if self.init == "bundle":
            assert self.bundle is not None
            targets, note = bundle_tables(self.bundle, self.prefix_length)
            return note + self._fit(tables, targets)
        assert self.text is not None
        ids = word_ids(backbone, self.text, self.prefix_length - self.num_frozen)
        note = f"starts from the words {backbone.tokenizer.decode(ids)!r}"
        for table in tables.values():
            if isinstance(table, EmbeddingTable):
                table.start_from(ids)
                return note
        observed = observed_text(backbone, [start_token_id(backbone)] * self.num_frozen + ids)
        return note + self._fit(tables, {site: observed[site][list(layers[site])] for site in tables})

    def _fit(self, tables: Mapping[str, PrefixTable], targets: Mapping[str, KeyValueTable]) -> str:
        """Fit every table to the trained positions of its target."""
        errors = {}
        for site, target in targets.items():
            device = next(tables[site].parameters()).device
            errors[site] = tables[site].fit(target[:, :, :, self.num_frozen :].to(device))
        return format_shortfall(errors)


def _match_stds(
    tables: Mapping[str, PrefixTable], backbone: Backbone, layers: Mapping[str, Sequence[int]], *, zero_values: bool
) -> None:
    """Scale freshly drawn tables to the standard deviations of the backbone's own keys and values."""
    for site, stds in observed_stds(backbone).items():
        if site in tables:
            scale = stds[list(layers[site])]
            scale[:, 1] *= not zero_values
            tables[site].match(scale)


def sink_tables(backbone: Backbone, layers: Mapping[str, Sequence[int]]) -> dict[str, KeyValueTable]:
    """The backbone's own keys and values of a text's first token, by site: one position, an attention sink."""
    sinks = observed_text(backbone, [start_token_id(backbone)])
    return {site: sinks[site][list(indices)] for site, indices in layers.items()}


def word_ids(backbone: Backbone, text: str, length: int) -> list[int]:
    """The first `length` token ids of a text, which is repeated if it is too short.

    Raises:
        ValueError: When the text has no words.
    """
    if not text.strip():
        raise ValueError(f"`method.init_text` must have words for `method.init=text`, but is {text!r}.")
    # Every word is at least one token.
    repeated = " ".join([text.strip()] * -(-length // len(text.split())))
    ids: list[int] = backbone.tokenizer(repeated, add_special_tokens=False, verbose=False).input_ids
    return ids[:length]


def start_token_id(backbone: Backbone) -> int:
    """The id of the tokenizer's bos token, or of eos if it has none."""
    tokenizer = backbone.tokenizer
    return int(tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id)


def bundle_problems(folder: str, geometry: Geometry, sites: Sequence[str], layers: Sequence[int] | None) -> list[str]:
    """Why an exported prefix cannot initialise these sites and layers; its tensors are not read.

    Raises:
        BundleError: When the bundle is damaged.
    """
    manifest = read_manifest(find_bundle(folder))
    if manifest.method != "prefix_tuning":
        return [f"`method.init_bundle` must hold a prefix, but {folder} is of the method '{manifest.method}'."]
    own = {site: vars(geometry[site]) for site in sites}
    found = {site: manifest.geometry.get(site) for site in manifest.settings["sites"]}
    if own != found:
        return [f"`method.init_bundle` must have the geometry {own}, but {folder} has {found}; choose `method.sites`."]
    selected = None if layers is None else list(layers)
    if manifest.settings["layers"] != selected:
        return [
            f"`method.init_bundle` must be of the layers {selected or 'all'}, but {folder} is of "
            f"{manifest.settings['layers'] or 'all'}; choose `method.layers`."
        ]
    return []


def bundle_tables(folder: str, length: int) -> tuple[dict[str, KeyValueTable], str]:
    """An exported prefix, truncated or repeated to `length` positions, by site, and a remark for the user.

    Raises:
        BundleError: When the bundle is damaged.
    """
    bundle = read_bundle(Path(folder))
    tensors = bundle.tensors
    sites: Sequence[str] = bundle.manifest.settings["sites"]
    tables = {site: torch.stack([tensors[f"{site}.keys"], tensors[f"{site}.values"]], dim=1).float() for site in sites}
    resized = {site: _resized(table, length) for site, table in tables.items()}
    return resized, _format_origin(bundle.manifest, bundle.origin, length)


def _resized(table: Tensor, length: int) -> Tensor:
    """The first `length` positions, repeated if there are fewer."""
    return table.index_select(3, torch.arange(length) % table.shape[3])


def _format_origin(manifest: Manifest, folder: str, length: int) -> str:
    found = manifest.settings["prefix_length"]
    change = "unchanged" if found == length else f"cut to {length}" if found > length else f"repeated up to {length}"
    origin = f"{folder} ({manifest.task} on {manifest.backbone.name}), of length {found}"
    return f"starts from {origin}, {change}"


def format_shortfall(errors: Mapping[str, float]) -> str:
    """The end of a remark if a reparametrisation cannot represent its initial values to within 1%; else empty.

    Args:
        errors: Relative error of each fit, by site; see `PrefixTable.fit`.
    """
    worst = max(errors.values(), default=0.0)
    return f", with a relative error of {worst:.1%}; choose a wider reparametrisation for less" if worst > 0.01 else ""
