"""Initialises a prefix: at random, from the backbone's own activations of a text, or from an exported prefix.

In: new tables, a backbone, the settings of `init`, and what the task gives. Out: initialised tables. Initialisation
decides much of the result of a short training (Li & Liang, 2021, section 7.4).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
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
from ptl_prefix.backbones.observed_context import observed_context
from ptl_prefix.methods.attention_matching import match_attention
from ptl_prefix.methods.prefix_table import EmbeddingTable, KeyValueTable, PrefixTable
from ptl_prefix.methods.start_inputs import StartInputs, TrainingRows, first_pairs
from ptl_prefix.methods.start_texts import (
    demonstration_ids,
    digest,
    document_chunk_ids,
    document_ids,
    joined,
    pairs_after_demonstrations,
    sampled_chunk_ids,
    start_token_id,
    training_input_ids,
    word_ids,
    words_note,
)

Init = Literal[
    "random",
    "zero_values",
    "text",
    "training_inputs",
    "demonstrations",
    "sampled_chunks",
    "attention_matching",
    "bundle",
]

_NUM_CHUNKS = 4
_CONTEXT_PER_POSITION = 16
_NUM_QUERY_TEXTS, _QUERIES_PER_TEXT = 16, 64


@dataclass(frozen=True, kw_only=True)
class PrefixStart:
    """The initialisation of a prefix.

    Args:
        init: Kind of initial values; see `PrefixTuning`, as for the next four.
        init_text: Words for `init=text`.
        init_num_chunks: Number of chunks for `init=sampled_chunks`.
        init_num_tokens: Number of tokens that `init=attention_matching` compresses.
        init_bundle: Folder of the bundle for `init=bundle`.
        inputs: What the task gives.
        prefix_length: Number of prefix positions, the frozen one included.
        num_frozen: Number of frozen positions at the start of the prefix, 0 or 1.
        text_start: Position of the first token of a text.
    """

    init: Init
    init_text: str | None
    init_num_chunks: int | None
    init_num_tokens: int | None
    init_bundle: str | None
    inputs: StartInputs
    prefix_length: int
    num_frozen: int
    text_start: int

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

        Raises:
            ValueError: When training rows are needed, and there are none.
        """
        if self.init in ("random", "zero_values"):
            _match_stds(tables, backbone, layers, zero_values=self.init == "zero_values")
            return None
        if self.init == "bundle":
            assert self.init_bundle is not None
            targets, note = bundle_tables(self.init_bundle, self.prefix_length)
            return note + self._fit(tables, {site: table[..., self.num_frozen :, :] for site, table in targets.items()})
        if self.init == "attention_matching":
            target, note = self._matched(backbone)
            return note + self._fit(tables, {site: target[list(layers[site])] for site in tables})
        ids, note = self._text(backbone)
        for table in tables.values():
            if isinstance(table, EmbeddingTable):
                table.start_from(ids)
                return note
        observed = observed_text(backbone, [start_token_id(backbone)] * self.num_frozen + ids)
        return note + self._fit(
            tables, {site: observed[site][list(layers[site])][..., self.num_frozen :, :] for site in tables}
        )

    def _text(self, backbone: Backbone) -> tuple[list[int], str]:
        """The token ids whose keys and values are the prefix, and a remark for the user."""
        length = self.prefix_length - self.num_frozen
        if self.init == "text":
            ids = word_ids(backbone, self.inputs.words(self.init_text), length)
            return ids, words_note(backbone, ids, self.inputs, self.init_text)
        if self.init == "training_inputs":
            ids, whose = training_input_ids(self._rows, length), "the first training inputs"
        elif self.init == "demonstrations":
            ids, whose = demonstration_ids(self._rows, length), "the first training pairs"
        elif (document := self.inputs.read_document()) is not None:
            num_chunks = min(self.init_num_chunks or _NUM_CHUNKS, length)
            ids = document_chunk_ids(document_ids(backbone, document), length, num_chunks)
            whose = f"{num_chunks} chunks of the document"
        else:
            num_chunks = min(self.init_num_chunks or _NUM_CHUNKS, length)
            ids, whose = sampled_chunk_ids(self._rows, length, num_chunks), f"{num_chunks} chunks of training pairs"
        return ids, f"starts from {length} tokens of {whose} (sha256 {digest(ids)})"

    def _matched(self, backbone: Backbone) -> tuple[KeyValueTable, str]:
        """Keys and values to which training rows attend as to a longer text, and a remark for the user."""
        length = self.prefix_length - self.num_frozen
        context_length = max(length, self.init_num_tokens or self._context_length(backbone))
        if (document := self.inputs.read_document()) is not None:
            ids, whose = document_ids(backbone, document)[:context_length], "the document"
            ids, pairs = joined([ids], max(length, len(ids))), first_pairs(self._rows)
        else:
            ids, whose = demonstration_ids(self._rows, context_length), "the first training pairs"
            pairs = pairs_after_demonstrations(self._rows, len(ids))
        texts = [pair.prompt + pair.target for pair in islice(pairs, _NUM_QUERY_TEXTS)]
        context = [start_token_id(backbone)] * self.num_frozen + ids
        observed = observed_context(backbone, context, texts, text_start=self.text_start, num_queries=_QUERIES_PER_TEXT)
        matched = match_attention([layer.without_first(self.num_frozen) for layer in observed], length)
        error = sum(layer.output_error for layer in matched) / len(matched)
        mass = sum(layer.mass for layer in matched) / len(matched)
        note = (
            f"starts from {len(ids)} tokens of {whose} (sha256 {digest(ids)}), compressed into "
            f"{length} positions: over {len(texts)} more training pairs and all layers, their attention mass is "
            f"{mass:.0%} of the tokens', and their attention output differs by {error:.0%}"
        )
        return torch.stack([layer.table for layer in matched]), note

    def _context_length(self, backbone: Backbone) -> int:
        """Number of tokens to compress where none is configured."""
        wanted = _CONTEXT_PER_POSITION * self.prefix_length
        return wanted if backbone.max_positions is None else min(wanted, backbone.max_positions // 2)

    @property
    def _rows(self) -> TrainingRows:
        if self.inputs.training_rows is None:
            raise ValueError(
                f"`method.init={self.init}` needs the training rows of a task, but the method was given none; train "
                "with `ptl-prefix train` or `ptl_prefix.train`, or choose another `method.init`."
            )
        return self.inputs.training_rows

    def _fit(self, tables: Mapping[str, PrefixTable], targets: Mapping[str, KeyValueTable]) -> str:
        """Fit every table to its target."""
        errors = {}
        for site, target in targets.items():
            device = next(tables[site].parameters()).device
            errors[site] = tables[site].fit(target.to(device))
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
