"""The manifest of a bundle: `manifest.json`.

In: a `Manifest`, or the folder of a bundle from anyone. Out: its text, or the manifest; else `BundleError`. The file
ends with the hash of everything else in it, so that a changed byte is detected here as in the tensors.
"""

import hashlib
import math
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le, MaxLen, MinLen
from pydantic import ConfigDict

from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.artifacts.json_document import (
    STRICT,
    DocumentError,
    from_values,
    hash_of,
    parse_values,
    read_bounded,
    to_text,
    to_values,
)
from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.errors import BundleError

BUNDLE_VERSION = 1
MANIFEST_FILE = "manifest.json"
TENSORS_FILE = "tensors.safetensors"
ROUTING_FILE = "routing.safetensors"
MAX_MANIFEST_BYTES = 16 * 2**20
MAX_HEADER_BYTES = 100 * 10**6
"""The limit of the safetensors format."""

Quantization = Literal["bitsandbytes_8bit", "bitsandbytes_4bit", "torchao_int8"]
"""LLM.int8 (Dettmers et al., 2022); NF4 in blocks of 64 (Dettmers et al., 2023); int8 weights with a scale per row."""

NgramScheme = Literal["words_1_2"]
"""How texts are counted for routing."""

Name = Annotated[str, MinLen(1), MaxLen(200)]
Place = Annotated[str, MinLen(1), MaxLen(4096)]
TokenId = Annotated[int, Ge(0), Le(2**31)]
Site = Literal["encoder_self", "decoder_self", "decoder_cross"]
SiteNumber = Literal["num_layers", "num_kv_heads", "head_dim"]

_ITEM_BYTES = {
    "float64": 8,
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "uint8": 1,
    "bool": 1,
}
_SEAL = "manifest_sha256"
"""The key of `manifest.json` with the hash of all others."""


@dataclass(frozen=True, kw_only=True)
class BackboneIdentity:
    """The identity of a frozen model.

    Args:
        name: Name in the config.
        path: Origin of the weights: the name of an embedded model, a hub name or a local folder.
        family: Model type in transformers.
        weights_fingerprint: Fingerprint of the tensors that are loaded, as stored.
        tokenizer_fingerprint: Fingerprint of the tokenizer.
        config_fingerprint: Fingerprint of what a forward pass depends on in the model's config; `None` in the first
            bundles, whose other fingerprints may be of other files too.
        quantization: Quantisation of the matrices, as in `backbone.quantization`; `None`: not quantised.
    """

    name: Name
    path: Place
    family: Name
    weights_fingerprint: Name
    tokenizer_fingerprint: Name
    config_fingerprint: Name | None = None
    quantization: Quantization | None = None


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """The shape and dtype of a tensor. The bounds keep a hostile manifest from causing huge computations."""

    shape: Annotated[tuple[Annotated[int, Ge(0), Le(2**40)], ...], MaxLen(8)]
    dtype: Literal["float64", "float32", "bfloat16", "float16", "int64", "int32", "int16", "uint8", "bool"]


@dataclass(frozen=True, kw_only=True)
class RoutingEntry:
    """The file `routing.safetensors`, from which a server learns which texts are of the bundle's task.

    Args:
        scheme: How texts are counted: hashed words and pairs of words.
        num_inputs: Number of training inputs that were counted.
        tensors: Shape and dtype of each array.
        sha256: Hash of the file.
    """

    scheme: NgramScheme
    num_inputs: Annotated[int, Ge(1), Le(2**40)]
    tensors: dict[str, TensorInfo]
    sha256: Name


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything in a bundle besides its tensors.

    Args:
        schema_version: Version of this manifest's format.
        method: Name of the method.
        settings: Keyword arguments of the method.
        task: Name of the task.
        task_version: Version of the task.
        prompt: Prompt format of the task.
        stop_ids: Token ids that end generation.
        decoding: Default decoding settings.
        label_set: Legal targets of a classification task; `None` for free text.
        metrics: Validation and test metrics by `split/name`.
        geometry: `num_layers`, `num_kv_heads` and `head_dim` of each attention site.
        position_law: Start of the text positions: `shifted` by the prefix, `unshifted`, or `infix`.
        dtype: Dtype of the backbone in training.
        backbone: Identity of the backbone in training.
        tensors: Shape and dtype of each tensor.
        tensors_sha256: Hash of the file with the tensors.
        created: Time of the export in UTC.
        package_version: Version of this package that exported the bundle.
        routing: Description of `routing.safetensors`; `None` for a bundle that a server offers by its name only.
        document_sha256: Hash of the document that the bundle was made of, by which one of another version of the
            document is recognised; `None` for a bundle of no document.
        document_path: Absolute path of that document where the bundle was made; `None` if it is not known.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    schema_version: int = BUNDLE_VERSION
    method: Name
    settings: dict[str, Any]
    task: Name
    task_version: Name
    prompt: PromptFormat
    stop_ids: Annotated[tuple[TokenId, ...], MaxLen(1000)]
    decoding: Decoding
    label_set: tuple[str, ...] | None
    metrics: dict[str, float]
    geometry: dict[Site, dict[SiteNumber, Annotated[int, Ge(1), Le(2**20)]]]
    position_law: Literal["shifted", "unshifted", "infix"]
    dtype: Literal["float32", "bfloat16", "float16"]
    backbone: BackboneIdentity
    tensors: dict[str, TensorInfo]
    tensors_sha256: Name
    created: Name
    package_version: Name
    routing: RoutingEntry | None = None
    document_sha256: Name | None = None
    document_path: Place | None = None


def num_tensor_bytes(tensors: Mapping[str, TensorInfo]) -> int:
    """Bytes of all tensors that a manifest describes."""
    return sum(math.prod(info.shape) * _ITEM_BYTES[info.dtype] for info in tensors.values())


def max_file_bytes(tensors: Mapping[str, TensorInfo]) -> int:
    """Largest size of the file with the tensors that a manifest describes."""
    return 8 + MAX_HEADER_BYTES + num_tensor_bytes(tensors)


def settings_fingerprint(manifest: Manifest) -> str:
    """The hash of what an adaptation's effect depends on besides its tensors, such as the layers of a prefix."""
    values = {"method": manifest.method, "settings": manifest.settings, "position_law": manifest.position_law}
    return hash_of(values)


def check_backbone(manifest: Manifest, identity: BackboneIdentity) -> None:
    """Refuse a backbone other than the one that the bundle was trained on; its name and path do not matter.

    Raises:
        BundleError: The backbones differ; the message says in what.
    """
    wanted = manifest.backbone
    differing = {
        "model family": wanted.family != identity.family,
        "weights": wanted.weights_fingerprint != identity.weights_fingerprint,
        "tokenizer": wanted.tokenizer_fingerprint != identity.tokenizer_fingerprint,
        "config (such as activation, epsilon or scaling)": wanted.config_fingerprint
        not in (None, identity.config_fingerprint),
        # Quantised weights are other weights.
        f"quantization ({wanted.quantization or 'none'} there, {identity.quantization or 'none'} here)": (
            wanted.quantization != identity.quantization
        ),
    }
    if any(differing.values()):
        what = " and ".join(name for name, differs in differing.items() if differs)
        law = f"A bundle must be used on the backbone that it was trained on, {wanted.name!r} from {wanted.path!r}"
        fact = f"the {what} of {identity.name!r} from {identity.path!r} differ"
        raise BundleError(f"{law}, but {fact}; load that one, or train on this one.")


def sealed_text(manifest: Manifest) -> str:
    """The text of `manifest.json`, with the hash of its values.

    Raises:
        ValueError: The manifest holds a value that cannot be read back.
    """
    try:
        values = to_values(manifest)
    except DocumentError as error:
        law = "A bundle's manifest must hold finite values of the stated types"
        raise ValueError(f"{law}, but it {error}; change the value, or leave it out.") from error
    return to_text({**values, _SEAL: hash_of(values)})


@contextmanager
def bundle_errors(path: Path) -> Iterator[None]:
    """Turn a `DocumentError` about one of the files into a `BundleError`."""
    try:
        yield
    except DocumentError as error:
        law = "A bundle must be whole and unchanged since its export"
        raise BundleError(f"{law}, but {path} {error}; export it again from its run.") from error


def read_manifest(folder: str | Path) -> Manifest:
    """Read and check the manifest of the bundle in `folder`, without its tensors.

    Raises:
        BundleError: The manifest is missing, damaged or of another version.
    """
    return read_versioned_manifest(folder)[0]


def read_versioned_manifest(folder: str | Path) -> tuple[Manifest, str]:
    """Read and check a manifest as `read_manifest`, with the version of its bundle.

    The file is read once: a bundle that is replaced meanwhile cannot get the version of another one.
    """
    path = Path(folder, MANIFEST_FILE)
    with bundle_errors(path):
        require_plain_file(path)
        data = read_bounded(path, max_bytes=MAX_MANIFEST_BYTES)
        values = parse_values(data)
        seal = values.pop(_SEAL, None)
        manifest = from_values(values, Manifest, version=BUNDLE_VERSION)
        if seal != hash_of(values):
            raise DocumentError(f"does not agree with its own `{_SEAL}`")
    return manifest, hashlib.sha256(data).hexdigest()[:16]


def require_plain_file(path: Path) -> None:
    """Refuse a link that leaves the folder, and anything but a plain file, such as a pipe that never ends."""
    folder, real = os.path.realpath(path.parent), os.path.realpath(path)
    if os.path.dirname(real) != folder:
        raise DocumentError("is a link that leaves its folder")
    try:
        mode = os.stat(real).st_mode
    except OSError as error:
        fact = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise DocumentError(fact) from error
    if not stat.S_ISREG(mode):
        raise DocumentError("is not a plain file")
