"""The exported adaptation: what is served. A folder of two files, `tensors.safetensors` and `manifest.json`.

In: the tensors that a method stores and all that is needed to use them on the same backbone. Out: the same, or
`BundleError`. A bundle may come from anyone, so nothing in it is believed: sizes are checked before memory is asked
for, and content against the hashes that the manifest states. Hashes guard against damage, not against malice; but what
is well-formed and finite can do no more than write nonsense.
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

from ptl_prefix.artifacts.atomic import folder_written_whole
from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.artifacts.fingerprint import package_version
from ptl_prefix.artifacts.json_document import DocumentError
from ptl_prefix.artifacts.manifest import (
    BUNDLE_VERSION,
    MANIFEST_FILE,
    BackboneIdentity,
    Manifest,
    TensorInfo,
    check_backbone,
    read_manifest,
    refusing,
    require_plain_file,
    sealed_text,
)
from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.errors import BundleError

__all__ = [
    "BUNDLE_VERSION",
    "BackboneIdentity",
    "Bundle",
    "Manifest",
    "TensorInfo",
    "check_backbone",
    "read_bundle",
    "write_bundle",
]

TENSORS_FILE = "tensors.safetensors"
MAX_HEADER_BYTES = 100 * 10**6
"""The bound of the safetensors format itself."""


@dataclass(frozen=True, eq=False)
class Bundle:
    """A manifest and the tensors it describes, on the CPU."""

    manifest: Manifest
    tensors: dict[str, Tensor]


def write_bundle(
    folder: str | Path,
    *,
    tensors: Mapping[str, Tensor],
    method: str,
    settings: Mapping[str, Any],
    task: str,
    task_version: str,
    prompt: PromptFormat,
    stop_ids: Sequence[int],
    decoding: Decoding,
    label_set: Sequence[str] | None,
    metrics: Mapping[str, float],
    geometry: Mapping[str, Mapping[str, int]],
    position_law: str,
    dtype: str,
    backbone: BackboneIdentity,
) -> Bundle:
    """Export an adaptation into `folder`, whole or not at all, in place of an older bundle if one is there.

    Returns:
        The bundle as it was read back.

    Raises:
        BundleError: If a tensor holds NaN or infinity, or `folder` holds anything but a bundle.
        ValueError: If the manifest holds what cannot be read back.
    """
    _refuse_to_replace_anything_else(Path(folder))
    stored = {name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)}
    if fact := _what_is_not_finite(stored):
        raise BundleError(f"A bundle must hold finite numbers, but {fact}; export another checkpoint.")
    content = safetensors.torch.save(stored)
    manifest = Manifest(
        method=method,
        settings=dict(settings),
        task=task,
        task_version=task_version,
        prompt=prompt,
        stop_ids=tuple(stop_ids),
        decoding=decoding,
        label_set=None if label_set is None else tuple(label_set),
        metrics=dict(metrics),
        geometry={site: dict(numbers) for site, numbers in geometry.items()},
        position_law=position_law,
        dtype=dtype,
        backbone=backbone,
        tensors={name: _info(tensor) for name, tensor in stored.items()},
        tensors_sha256=hashlib.sha256(content).hexdigest(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        package_version=package_version(),
    )
    text = sealed_text(manifest)
    with folder_written_whole(folder) as unfinished:
        (unfinished / TENSORS_FILE).write_bytes(content)
        (unfinished / MANIFEST_FILE).write_text(text, encoding="utf-8")
        return read_bundle(unfinished)


def read_bundle(folder: str | Path) -> Bundle:
    """The bundle in `folder`.

    Raises:
        BundleError: With the first reason to refuse it.
    """
    manifest = read_manifest(folder)
    path = Path(folder, TENSORS_FILE)
    with refusing(path):
        tensors = _parse_tensors(_read_whole(path, manifest), manifest)
    return Bundle(manifest, tensors)


def _refuse_to_replace_anything_else(folder: Path) -> None:
    """`out=` may be mistyped, and whatever is in that folder would be gone."""
    others = {path.name for path in folder.iterdir()} - {MANIFEST_FILE, TENSORS_FILE} if folder.is_dir() else set()
    if others:
        law = "A bundle must be written to a new folder or in place of a bundle"
        raise BundleError(f"{law}, but {folder} also holds {min(others)!r}; choose another folder.")


def _info(tensor: Tensor) -> TensorInfo:
    # A dtype outside the list is refused when the manifest is checked, by name.
    return TensorInfo(shape=tuple(tensor.shape), dtype=str(tensor.dtype).removeprefix("torch."))  # type: ignore[arg-type]


def _read_whole(path: Path, manifest: Manifest) -> bytes:
    """The whole file, in one piece: what is hashed is what is parsed, whatever happens to the file meanwhile."""
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
    """Compare what the file has with what its header and manifest claim, before memory is taken at their word."""
    size = os.fstat(file.fileno()).st_size
    header_bytes = int.from_bytes(file.read(8), "little")
    if header_bytes > MAX_HEADER_BYTES:
        raise DocumentError(f"claims a header of {header_bytes} bytes, more than {MAX_HEADER_BYTES}")
    if size != 8 + header_bytes + num_tensor_bytes:
        wanted = f"8 and a header of {header_bytes} and tensors of {num_tensor_bytes}"
        raise DocumentError(f"has {size} bytes, not {wanted}: it is truncated or foreign")


def _parse_tensors(content: bytes, manifest: Manifest) -> dict[str, Tensor]:
    try:
        tensors = safetensors.torch.load(content)
    except (SafetensorError, ValueError, TypeError, LookupError, RuntimeError) as error:
        raise DocumentError(f"is no safetensors file ({error})") from error
    found = {name: (tuple(tensor.shape), str(tensor.dtype)) for name, tensor in tensors.items()}
    wanted = {name: (info.shape, f"torch.{info.dtype}") for name, info in manifest.tensors.items()}
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            raise DocumentError(f"has {found.get(name)} as {name!r}, and its manifest says {wanted.get(name)}")
    if fact := _what_is_not_finite(tensors):
        raise DocumentError(f"holds no finite numbers: {fact}")
    return {name: tensors[name] for name in manifest.tensors}


def _what_is_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            return f"{name!r} has NaN or infinity"
    return None
