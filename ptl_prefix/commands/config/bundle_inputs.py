"""The inputs of the verbs that use a bundle: its folder, backbone, decoding settings and sources."""

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.artifacts.manifest import Manifest
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.choose_source import fetched_path
from ptl_prefix.backbones.spec import BackboneSpec
from ptl_prefix.commands.config.instantiate import build
from ptl_prefix.commands.config.verb_settings import DecodingChanges
from ptl_prefix.errors import BackboneError, ConfigError, DataError
from ptl_prefix.methods.restore import Adaptation


def load_bundle_backbone(manifest: Manifest, config: dict[str, Any], *, shape_only: bool = False) -> Backbone:
    """Load the backbone that a bundle was trained on, with `backbone`, `dtype` and `device` of the config.

    Args:
        manifest: Manifest of the bundle.
        config: Config of the verb.
        shape_only: Whether the weights are left out.

    Raises:
        BackboneError: When it cannot be loaded, or would have to be fetched although the user did not name it.
    """
    as_trained = {
        "name": manifest.backbone.name,
        "dtype": config["dtype"] or manifest.dtype,
        "quantization": manifest.backbone.quantization,
        "device": config["device"],
    }
    return load_chosen_backbone(
        config, manifest.backbone.path, of="a bundle", settings=as_trained, shape_only=shape_only
    )


def load_chosen_backbone(
    config: dict[str, Any], path: str, *, of: str, settings: dict[str, Any], shape_only: bool = False
) -> Backbone:
    """Load the backbone that a user named, else the one that a bundle or an adapter names, if it is on this machine.

    Args:
        config: Config of a verb, with or without `backbone`.
        path: Path in the bundle or adapter.
        of: `a bundle` or `an adapter`.
        settings: Settings of the backbone besides its path, which come before those that the user named.
        shape_only: Whether the weights are left out.

    Raises:
        BackboneError: When it cannot be loaded, or would have to be fetched although the user did not name it.
    """
    if config.get("backbone") is not None:
        spec: BackboneSpec = build(config["backbone"] | settings)
    else:
        spec = BackboneSpec(path=path_on_this_machine(path, of=of), **settings)
    return spec.load_shape() if shape_only else spec.load()


def path_on_this_machine(path: str, *, of: str) -> str:
    """Where a backbone is on this machine: a bundle or adapter from anyone must not choose what is downloaded.

    Args:
        path: Path in the bundle or adapter.
        of: `a bundle` or `an adapter`.

    Raises:
        BackboneError: When it is not here.
    """
    if path and (found := fetched_path(path)) is not None:
        return found
    raise BackboneError(
        f"`backbone` must name the backbone of {of} if it is not on this machine, but its own path, "
        f"{path!r}, is neither a folder nor a model of the hub that was fetched before; if you trust it, set "
        f"backbone={path}."
    )


def changed_decoding(own: Decoding, config: dict[str, Any]) -> Decoding:
    """Decoding settings of a bundle, with the changes of a verb's config.

    Raises:
        ConfigError: When a change contradicts the bundle's other settings, such as `max_new_tokens` below its
            `min_new_tokens`.
    """
    names = [field.name for field in dataclasses.fields(DecodingChanges)]
    changed = dataclasses.replace(own, **{name: config[name] for name in names if config[name] is not None})
    if problems := changed.length_problems():
        raise ConfigError(problems)
    return changed


def source_lines(source_file: str | None) -> Iterator[str]:
    """The sources of a file, one per line; empty lines count, and a final line end ends the last source.

    Lines end in LF or CRLF: `splitlines`, and reading as text, would also split at characters that a text may hold.

    Raises:
        DataError: The file cannot be read, is not UTF-8, or holds U+0000.
    """
    if source_file is None:
        return
    try:
        data = _standard_input() if source_file == "-" else Path(source_file).read_bytes()
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"`input` must be a UTF-8 text file, but '{source_file}' cannot be read: {error}") from error
    if "\0" in text:
        raise DataError(
            f"`input` must be a UTF-8 text file, but '{source_file}' holds the character U+0000 (is it UTF-16?); "
            "convert it."
        )
    lines = text.removesuffix("\n").split("\n") if text else []
    yield from (line.removesuffix("\r") for line in lines)


def rendered_sources(adaptation: Adaptation, sources: Sequence[str]) -> list[str]:
    """The user's sources as the bundle's task renders them.

    Raises:
        DataError: One lacks a column of the bundle's template.
    """
    try:
        return adaptation.rendered(sources)
    except ValueError as error:
        raise DataError(str(error)) from error


def _standard_input() -> bytes:
    return sys.stdin.buffer.read()
