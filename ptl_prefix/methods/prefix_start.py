"""Where a prefix starts: among the backbone's own keys and values, at real words, or at an earlier prefix.

In: a backbone, and what a config says of `init`. Out: keys and values for the tables of `prefix_table.py` to begin
with. Initialisation decides much of what a short training reaches (Li & Liang 2021, section 7.4).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ptl_prefix.artifacts.bundle import read_bundle
from ptl_prefix.artifacts.manifest import Manifest, read_manifest
from ptl_prefix.backbones.attention_sites import Geometry
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.methods.prefix_table import KeyValueTable


def word_ids(backbone: Backbone, text: str, length: int) -> list[int]:
    """`length` ids of a text's words: from the start, and again from the start where the text is too short.

    Raises:
        ValueError: The text has no words.
    """
    if not text.strip():
        raise ValueError(f"`method.init_text` must have words to start from, but is {text!r}.")
    # Every word is at least one token.
    repeated = " ".join([text.strip()] * -(-length // len(text.split())))
    ids: list[int] = backbone.tokenizer(repeated, add_special_tokens=False, verbose=False).input_ids
    return ids[:length]


def start_token_id(backbone: Backbone) -> int:
    """The token that texts begin with, or end with where none is kept for that: what attention sinks into."""
    tokenizer = backbone.tokenizer
    return int(tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id)


def bundle_problems(folder: str, geometry: Geometry, sites: Sequence[str], layers: Sequence[int] | None) -> list[str]:
    """Why an exported prefix cannot be a start here, found without reading its tensors.

    Raises:
        BundleError: The bundle is damaged or foreign.
    """
    manifest = read_manifest(folder)
    if manifest.method != "prefix_tuning":
        return [f"`method.init_bundle` must hold a prefix, but {folder} is of the method '{manifest.method}'."]
    own = {site: vars(geometry[site]) for site in sites}
    theirs = {site: manifest.geometry.get(site) for site in manifest.settings["sites"]}
    if own != theirs:
        return [f"`method.init_bundle` must have the geometry {own}, but {folder} has {theirs}; choose `method.sites`."]
    wanted = None if layers is None else list(layers)
    if manifest.settings["layers"] != wanted:
        return [
            f"`method.init_bundle` must be of the layers {wanted or 'all'}, but {folder} is of "
            f"{manifest.settings['layers'] or 'all'}; choose `method.layers`."
        ]
    return []


def bundle_tables(folder: str, length: int) -> tuple[dict[str, KeyValueTable], str]:
    """An exported prefix at another length, by site, and what was done to it.

    Raises:
        BundleError: The bundle is damaged or foreign.
    """
    bundle = read_bundle(Path(folder))
    tensors = bundle.tensors
    sites: Sequence[str] = bundle.manifest.settings["sites"]
    tables = {site: torch.stack([tensors[f"{site}.keys"], tensors[f"{site}.values"]], dim=1).float() for site in sites}
    return {site: _of_length(table, length) for site, table in tables.items()}, _said(bundle.manifest, folder, length)


def _of_length(table: Tensor, length: int) -> Tensor:
    """The first positions, and again the first ones where there are too few."""
    return table.index_select(3, torch.arange(length) % table.shape[3])


def _said(manifest: Manifest, folder: str, length: int) -> str:
    theirs = manifest.settings["prefix_length"]
    change = "as it is" if theirs == length else f"cut to {length}" if theirs > length else f"repeated up to {length}"
    return f"starts from {folder} ({manifest.task} on {manifest.backbone.name}), of length {theirs}, {change}"


def format_shortfall(missing: Mapping[str, float]) -> str:
    """How near the tables could come to what they should start from; empty where they reach it."""
    worst = max(missing.values(), default=0.0)
    return f"; reached but for {worst:.1%}, choose a wider reparametrisation for less" if worst > 0.01 else ""
