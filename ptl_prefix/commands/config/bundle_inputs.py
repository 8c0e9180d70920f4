"""What the verbs that put a bundle to work have in common: which folder, which backbone, which sources."""

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ptl_prefix.artifacts.manifest import Manifest
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.spec import load_backbone
from ptl_prefix.commands.config.verb_settings import DecodingChanges
from ptl_prefix.errors import DataError


def bundle_folder(path: Path) -> Path:
    """A run's folder stands for its bundle."""
    return RunFolder(path).bundle if RunFolder(path).config.is_file() else path


def backbone_of(manifest: Manifest, config: dict[str, Any]) -> Backbone:
    """The backbone that a bundle was made for; the config's `backbone_path`, `dtype` and `device` say otherwise."""
    return load_backbone(
        config["backbone_path"] or manifest.backbone.path,
        name=manifest.backbone.name,
        dtype=config["dtype"] or manifest.dtype,
        quantization=manifest.backbone.quantization,
        device=config["device"],
    )


def decoding_changes(config: dict[str, Any]) -> dict[str, Any]:
    """What a verb's config changes in a bundle's own decoding, by the names of `Decoding`."""
    names = [field.name for field in dataclasses.fields(DecodingChanges)]
    return {name: config[name] for name in names if config[name] is not None}


def source_lines(source_file: str | None) -> Iterator[str]:
    """The sources of a file, one per line; empty lines are sources too, a last line feed ends the last one."""
    if source_file is None:
        return
    try:
        text = sys.stdin.read() if source_file == "-" else Path(source_file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"`input` must be a UTF-8 text file, but '{source_file}' cannot be read: {error}") from error
    # Only a line feed parts sources: `splitlines` would also cut at characters that a text may hold.
    yield from text.removesuffix("\n").split("\n") if text else ()
