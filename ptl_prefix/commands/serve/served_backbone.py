"""The backbone of a server, and what it answers without a bundle.

In: a folder of bundles, and the config of `serve`. Out: the loaded `Backbone`, and its `Base`.
"""

import time
from pathlib import Path
from typing import Any

from ptl_prefix.artifacts.bundle_folder import find_bundle
from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.artifacts.manifest import Manifest, read_manifest
from ptl_prefix.artifacts.prompt_format import ChatFormat, PromptFormat
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.backbones.spec import BackboneSpec
from ptl_prefix.commands.config.bundle_inputs import load_bundle_backbone
from ptl_prefix.commands.config.instantiate import build
from ptl_prefix.errors import BackboneError, BundleError, ConfigError
from ptl_prefix.serving.models import Base
from ptl_prefix.settings import defaults_of


def readable_manifests(folder: Path) -> list[Manifest]:
    """The manifests of a folder's bundles; a bundle that cannot be read is reported by the store."""
    manifests = []
    for path in sorted(path for path in folder.iterdir() if path.is_dir()):
        try:
            manifests.append(read_manifest(find_bundle(path)))
        except BundleError:
            continue
    return manifests


def backbone_problems(manifests: list[Manifest], config: dict[str, Any]) -> list[str]:
    """Why no backbone can be chosen, found before weights are read."""
    if config.get("backbone") is not None:
        return []
    if not manifests:
        return ["`backbone` must be given, as the folder `bundles` holds no bundle that names one."]
    if len({manifest.backbone.weights_fingerprint for manifest in manifests}) > 1:
        names = ", ".join(sorted({manifest.backbone.name for manifest in manifests}))
        return [f"`backbone` must be given, as the bundles are of several: {names}; those of others are not served."]
    return []


def load_served_backbone(manifests: list[Manifest], config: dict[str, Any]) -> Backbone:
    """Load the backbone that the config names, else that of the bundles; its shape alone, if another server has it.

    Raises:
        BackboneError: When it cannot be loaded.
        ConfigError: When none can be chosen.
    """
    if problems := backbone_problems(manifests, config):
        raise ConfigError(problems)
    first = manifests[0] if manifests else None
    node = config.get("backbone")
    is_elsewhere = config["engine"] == "vllm"
    if node is None:
        assert first is not None
        return load_bundle_backbone(first, config, shape_only=is_elsewhere)
    changes: dict[str, Any] = {"device": config["device"]}
    # Bundles are served in the dtype and quantisation that they were trained in.
    if (dtype := config["dtype"] or (first.dtype if first else None)) is not None:
        changes["dtype"] = dtype
    if first is not None and node.get("quantization") is None:
        changes["quantization"] = first.backbone.quantization
    spec: BackboneSpec = build(node | changes)
    return spec.load_shape() if is_elsewhere else spec.load()


def base_of(backbone: Backbone, *, max_new_tokens: int) -> Base:
    """What the backbone answers without a bundle: it continues the text as it is, greedily.

    Raises:
        BackboneError: When its tokenizer has nothing that ends a text.
    """
    try:
        prompter = backbone.prompter(PromptFormat(between="", truncation="none"))
    except ValueError as error:
        raise BackboneError(f"A backbone that is served must have a token that ends a text, but: {error}") from error
    decoding = Decoding(**{**defaults_of("generation/greedy"), "max_new_tokens": max_new_tokens})
    tokenizer = backbone.tokenizer
    return Base(
        name=backbone.name,
        prompter=prompter,
        decoding=decoding,
        max_positions=backbone.max_positions,
        is_encoder_decoder=backbone.is_encoder_decoder,
        token_text=lambda token_id: str(tokenizer.decode([token_id])),
        chat_prompter=_chat_prompter(backbone),
        created=int(time.time()),
        facts={
            "family": backbone.family,
            "dtype": backbone.precision,
            "bytes": backbone.num_bytes,
            "hash": backbone.identity.weights_fingerprint[:16],
        },
    )


def _chat_prompter(backbone: Backbone) -> Prompter | None:
    """The encoder of conversations, if the backbone has a chat template that renders them."""
    if backbone.tokenizer.chat_template is None or backbone.is_encoder_decoder:
        return None
    try:
        return backbone.prompter(PromptFormat(between="", truncation="none", chat=ChatFormat(name="backbone")))
    except ValueError:  # a template for other uses, such as tools: one message is read as it is
        return None
