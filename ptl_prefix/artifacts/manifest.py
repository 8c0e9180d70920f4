"""What a bundle says of itself: `manifest.json`.

In: a `Manifest`, or the folder of a bundle from anyone. Out: its text, or the manifest; else `BundleError`. The file
ends with the hash of everything else in it, so that a changed byte is found here as in the tensors.
"""

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le, MaxLen
from pydantic import ConfigDict

from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.artifacts.json_document import STRICT, DocumentError, from_values, read_values, to_text, to_values
from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.errors import BundleError

BUNDLE_VERSION = 1
MANIFEST_FILE = "manifest.json"
MAX_MANIFEST_BYTES = 16 * 2**20

_SEAL = "manifest_sha256"
"""The key of `manifest.json` that holds the hash of all others."""


@dataclass(frozen=True, kw_only=True)
class BackboneIdentity:
    """Which frozen model.

    Args:
        name: Name of the backbone in configs.
        path: Embedded name, hub name or local folder that it was loaded from.
        family: Model type, as transformers names it.
        weights_fingerprint: SHA-256 of its parameters as loaded.
        tokenizer_fingerprint: SHA-256 of the tokenizer's files.
        quantization: Quantization of its matrices, a value of `backbone.quantization`; `None` if not quantised.
    """

    name: str
    path: str
    family: str
    weights_fingerprint: str
    tokenizer_fingerprint: str
    quantization: str | None = None


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """What one tensor must look like. The bounds keep the arithmetic of a hostile manifest small.

    Args:
        shape: Sizes of the tensor's dimensions.
        dtype: Data type of its elements.
    """

    shape: Annotated[tuple[Annotated[int, Ge(0), Le(2**40)], ...], MaxLen(8)]
    dtype: Literal["float64", "float32", "bfloat16", "float16", "int64", "int32", "uint8", "bool"]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All that a bundle is besides its tensors.

    Args:
        schema_version: Version of this file format.
        method: Kind of the method, which is the name of its module in `ptl_prefix.methods`.
        settings: Keyword arguments with which the method is built again.
        task: Name of the task that it was trained for.
        task_version: Version of that task.
        prompt: Format that turns a source into a prompt.
        stop_ids: Token ids at which generation stops.
        decoding: Default settings of text generation.
        label_set: Legal targets of a classification task; `None` for free text.
        metrics: Validation and test metrics of the run by `split/name`.
        geometry: `num_layers`, `num_kv_heads` and `head_dim` of each attention site of the backbone.
        position_law: Positions of the text: `shifted` by the prefix length, `unshifted`, or `infix`.
        dtype: Data type of the backbone during training.
        backbone: Identity of the backbone that it was trained on.
        tensors: Shape and dtype of each stored tensor by name.
        tensors_sha256: SHA-256 of the whole file `tensors.safetensors`.
        created: Time of the export in UTC, as ISO 8601.
        package_version: Version of this package that wrote the bundle.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    schema_version: int = BUNDLE_VERSION
    method: str
    settings: dict[str, Any]
    task: str
    task_version: str
    prompt: PromptFormat
    stop_ids: tuple[int, ...]
    decoding: Decoding
    label_set: tuple[str, ...] | None
    metrics: dict[str, float]
    geometry: dict[str, dict[str, int]]
    position_law: str
    dtype: str
    backbone: BackboneIdentity
    tensors: dict[str, TensorInfo]
    tensors_sha256: str
    created: str
    package_version: str


def check_backbone(manifest: Manifest, identity: BackboneIdentity) -> None:
    """Refuse a backbone other than the one that the bundle was trained on; where it lies and its name do not matter.

    Raises:
        BundleError: Naming what differs.
    """
    wanted = manifest.backbone
    differing = {
        "model family": wanted.family != identity.family,
        "weights": wanted.weights_fingerprint != identity.weights_fingerprint,
        "tokenizer": wanted.tokenizer_fingerprint != identity.tokenizer_fingerprint,
        # What it is trained beside: rounded weights are other weights.
        f"quantization ({wanted.quantization or 'none'} there, {identity.quantization or 'none'} here)": (
            wanted.quantization != identity.quantization
        ),
    }
    if any(differing.values()):
        what = " and ".join(name for name, differs in differing.items() if differs)
        law = f"A bundle must meet the backbone it was trained on, {wanted.name!r} from {wanted.path!r}"
        fact = f"the {what} of {identity.name!r} from {identity.path!r} differ"
        raise BundleError(f"{law}, but {fact}; load that one, or train on this one.")


def sealed_text(manifest: Manifest) -> str:
    """What `manifest.json` holds.

    Raises:
        ValueError: If the manifest holds what cannot be read back.
    """
    try:
        values = to_values(manifest)
    except DocumentError as error:
        law = "A bundle's manifest must hold finite values of the stated types"
        raise ValueError(f"{law}, but it {error}; state it otherwise, or leave it out.") from error
    return to_text({**values, _SEAL: _hash_of(values)})


def _hash_of(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Turn a fact about one of the two files into a refusal of the bundle."""
    try:
        yield
    except DocumentError as error:
        law = "A bundle must be whole and unchanged since its export"
        raise BundleError(f"{law}, but {path} {error}; export it again from its run.") from error


def read_manifest(folder: str | Path) -> Manifest:
    """The manifest of the bundle in `folder`, without its tensors.

    Raises:
        BundleError: With the first reason to refuse it.
    """
    path = Path(folder, MANIFEST_FILE)
    with refusing(path):
        require_plain_file(path)
        values = read_values(path, max_bytes=MAX_MANIFEST_BYTES)
        seal = values.pop(_SEAL, None)
        manifest = from_values(values, Manifest, version=BUNDLE_VERSION)
        if seal != _hash_of(values):
            raise DocumentError(f"does not agree with its own `{_SEAL}`")
    return manifest


def require_plain_file(path: Path) -> None:
    """Neither a link to the host's other files nor a pipe that never ends."""
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
