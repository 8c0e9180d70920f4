"""The inputs of the verbs that use a bundle: its folder, backbone, decoding settings and sources."""

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ptl_prefix.artifacts.manifest import Manifest
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.spec import load_backbone
from ptl_prefix.commands.config.verb_settings import DecodingChanges
from ptl_prefix.errors import DataError


def load_bundle_backbone(manifest: Manifest, config: dict[str, Any]) -> Backbone:
    """Load the backbone that a bundle was trained on, with `backbone_path`, `dtype` and `device` of the config."""
    return load_backbone(
        config["backbone_path"] or manifest.backbone.path,
        name=manifest.backbone.name,
        dtype=config["dtype"] or manifest.dtype,
        quantization=manifest.backbone.quantization,
        device=config["device"],
    )


def decoding_changes(config: dict[str, Any]) -> dict[str, Any]:
    """The settings in a verb's config that change the bundle's own decoding, by the names of `Decoding`."""
    names = [field.name for field in dataclasses.fields(DecodingChanges)]
    return {name: config[name] for name in names if config[name] is not None}


def source_lines(source_file: str | None) -> Iterator[str]:
    """The sources of a file, one per line; empty lines count, and a final line feed ends the last source."""
    if source_file is None:
        return
    try:
        text = sys.stdin.read() if source_file == "-" else Path(source_file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"`input` must be a UTF-8 text file, but '{source_file}' cannot be read: {error}") from error
    # Only a line feed separates sources: `splitlines` would also split at characters that a text may hold.
    yield from text.removesuffix("\n").split("\n") if text else ()
