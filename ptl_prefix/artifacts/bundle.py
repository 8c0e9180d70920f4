"""Bundles: an exported adaptation as a folder of two files, `tensors.safetensors` and `manifest.json`.

In: the tensors of a method, and everything that is needed to use them on the same backbone. Out: the same, or
`BundleError`. A bundle may come from anyone, so nothing in it is trusted: sizes are checked before memory is allocated,
and content against the hashes in the manifest. Hashes detect damage, not malice; but well-formed, finite tensors can at
worst make the backbone generate nonsense.
"""

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from ptl_prefix.artifacts.atomic import write_folder_atomically, write_new_file
from ptl_prefix.artifacts.bundle_folder import find_bundle
from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.artifacts.fingerprint import package_version
from ptl_prefix.artifacts.json_document import DocumentError
from ptl_prefix.artifacts.manifest import (
    BUNDLE_VERSION,
    MANIFEST_FILE,
    BackboneIdentity,
    Manifest,
    TensorInfo,
    bundle_errors,
    check_backbone,
    read_manifest,
    require_plain_file,
    sealed_text,
)
from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.errors import BundleError

__all__ = [
    "BUNDLE_VERSION",
    "BackboneIdentity",
    "Bundle",
    "BundleContents",
    "Manifest",
    "TensorInfo",
    "check_backbone",
    "check_replaceable",
    "read_bundle",
    "write_bundle",
]

TENSORS_FILE = "tensors.safetensors"
MAX_HEADER_BYTES = 100 * 10**6
"""The limit of the safetensors format."""


@dataclass(frozen=True, eq=False)
class Bundle:
    """A manifest and the tensors that it describes, on the CPU."""

    manifest: Manifest
    tensors: dict[str, Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class BundleContents:
    """Everything that an exporter puts into a bundle; the manifest adds hashes, shapes, the time and the version.

    Args:
        tensors: Trained tensors by name, on any device.
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
        position_law: Start of the text positions: `shifted` by the prefix, or `unshifted`.
        dtype: Dtype of the backbone in training.
        backbone: Identity of the backbone.
    """

    tensors: Mapping[str, Tensor]
    method: str
    settings: Mapping[str, Any]
    task: str
    task_version: str
    prompt: PromptFormat
    stop_ids: Sequence[int]
    decoding: Decoding
    label_set: Sequence[str] | None
    metrics: Mapping[str, float]
    geometry: Mapping[str, Mapping[str, int]]
    position_law: str
    dtype: str
    backbone: BackboneIdentity


def write_bundle(folder: str | Path, contents: BundleContents) -> Bundle:
    """Export an adaptation into `folder`, whole or not at all; an older bundle in it is replaced.

    Returns:
        The bundle as it was read back.

    Raises:
        BundleError: If a tensor holds NaN or infinity, or `folder` holds anything but a bundle.
        ValueError: If the manifest holds a value that cannot be read back.
    """
    check_replaceable(folder)
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in sorted(contents.tensors.items())}
    if fact := _non_finite_problem(tensors):
        raise BundleError(f"A bundle must hold finite numbers, but {fact}; export another checkpoint.")
    tensors_file = safetensors.torch.save(tensors)
    text = sealed_text(_manifest(contents, tensors, hashlib.sha256(tensors_file).hexdigest()))
    with write_folder_atomically(folder) as unfinished:
        write_new_file(unfinished / TENSORS_FILE, tensors_file)
        write_new_file(unfinished / MANIFEST_FILE, text.encode())
        return read_bundle(unfinished)


def read_bundle(folder: str | Path) -> Bundle:
    """Read and check the bundle in `folder`, or the bundle of the run in `folder`.

    Raises:
        BundleError: The bundle is missing, damaged or of another version.
    """
    folder = find_bundle(folder)
    manifest = read_manifest(folder)
    path = Path(folder, TENSORS_FILE)
    with bundle_errors(path):
        tensors = _parse_tensors(_read_whole(path, manifest), manifest)
    return Bundle(manifest, tensors)


def check_replaceable(folder: str | Path) -> None:
    """Refuse a folder with other files: `out=` may be mistyped, and replacing the folder would delete them.

    Raises:
        BundleError: If `folder` holds anything but a bundle.
    """
    folder = Path(folder)
    others = {path.name for path in folder.iterdir()} - {MANIFEST_FILE, TENSORS_FILE} if folder.is_dir() else set()
    if others:
        law = "A bundle must be written to a new folder or in place of a bundle"
        raise BundleError(f"{law}, but {folder} also holds {min(others)!r}; choose another folder.")


def _manifest(contents: BundleContents, tensors: Mapping[str, Tensor], tensors_sha256: str) -> Manifest:
    unchecked: Any = contents  # a value that no manifest may have is refused when the manifest is checked, by name
    return Manifest(
        method=contents.method,
        settings=dict(contents.settings),
        task=contents.task,
        task_version=contents.task_version,
        prompt=contents.prompt,
        stop_ids=tuple(contents.stop_ids),
        decoding=contents.decoding,
        label_set=None if contents.label_set is None else tuple(contents.label_set),
        metrics=dict(contents.metrics),
        geometry={site: dict(numbers) for site, numbers in unchecked.geometry.items()},
        position_law=unchecked.position_law,
        dtype=unchecked.dtype,
        backbone=contents.backbone,
        tensors={name: _info(tensor) for name, tensor in tensors.items()},
        tensors_sha256=tensors_sha256,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        package_version=package_version(),
    )


def _info(tensor: Tensor) -> TensorInfo:
    # A dtype outside the list is refused when the manifest is checked, by name.
    return TensorInfo(shape=tuple(tensor.shape), dtype=str(tensor.dtype).removeprefix("torch."))  # type: ignore[arg-type]


def _read_whole(path: Path, manifest: Manifest) -> bytes:
    """Read the file once, so that the bytes that are hashed are the bytes that are parsed."""
    require_plain_file(path)
    try:
        with path.open("rb") as file:
            _check_sizes(file, sum(_num_bytes(info) for info in manifest.tensors.values()))
            file.seek(0)
            content = file.read()
    except OSError as error:
        raise DocumentError(f"cannot be read ({error.strerror})") from error
    if hashlib.sha256(content).hexdigest() != manifest.tensors_sha256:
        raise DocumentError("has other content than its manifest's `tensors_sha256` says")
    return content


def _num_bytes(info: TensorInfo) -> int:
    dtype: torch.dtype = getattr(torch, info.dtype)
    return math.prod(info.shape) * dtype.itemsize


def _check_sizes(file: BinaryIO, num_tensor_bytes: int) -> None:
    """Compare the file's size with the sizes in its header and manifest, before any memory is allocated for them."""
    size = os.fstat(file.fileno()).st_size
    header_bytes = int.from_bytes(file.read(8), "little")
    if header_bytes > MAX_HEADER_BYTES:
        raise DocumentError(f"claims a header of {header_bytes} bytes, more than {MAX_HEADER_BYTES}")
    if size != 8 + header_bytes + num_tensor_bytes:
        wanted = f"8 and a header of {header_bytes} and tensors of {num_tensor_bytes}"
        raise DocumentError(f"has {size} bytes, not {wanted}: it is truncated, or not of this bundle")


def _parse_tensors(content: bytes, manifest: Manifest) -> dict[str, Tensor]:
    try:
        tensors = safetensors.torch.load(content)
    except (SafetensorError, ValueError, TypeError, LookupError, RuntimeError) as error:
        raise DocumentError(f"is not a safetensors file ({error})") from error
    found = {name: (tuple(tensor.shape), str(tensor.dtype)) for name, tensor in tensors.items()}
    wanted = {name: (info.shape, f"torch.{info.dtype}") for name, info in manifest.tensors.items()}
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            raise DocumentError(f"has {found.get(name)} as {name!r}, and its manifest says {wanted.get(name)}")
    if fact := _non_finite_problem(tensors):
        raise DocumentError(f"holds non-finite numbers: {fact}")
    return {name: tensors[name] for name in manifest.tensors}


def _non_finite_problem(tensors: Mapping[str, Tensor]) -> str | None:
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            return f"{name!r} has NaN or infinity"
    return None
