"""Bundles: an exported adaptation as a folder of files: tensors, a manifest, mostly what routing needs, and a card.

In: the tensors of a method, and everything that is needed to use them on the same backbone. Out: the same, or
`BundleError`. A bundle may come from anyone, so nothing in it is trusted: sizes are checked before memory is allocated,
and content against the hashes in the manifest. Hashes detect damage, not malice; but well-formed, finite tensors can at
worst make the backbone generate nonsense.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from ptl_prefix.artifacts.atomic import write_folder_atomically, write_new_file
from ptl_prefix.artifacts.bundle_folder import find_bundle
from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.artifacts.fingerprint import package_version
from ptl_prefix.artifacts.hub_address import origin_of
from ptl_prefix.artifacts.json_document import DocumentError
from ptl_prefix.artifacts.manifest import (
    BUNDLE_VERSION,
    MANIFEST_FILE,
    ROUTING_FILE,
    TENSORS_FILE,
    BackboneIdentity,
    Manifest,
    RoutingEntry,
    TensorInfo,
    bundle_errors,
    check_backbone,
    read_manifest,
    read_versioned_manifest,
    sealed_text,
)
from ptl_prefix.artifacts.model_card import CARD_FILE
from ptl_prefix.artifacts.ngram_counts import SCHEME
from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.artifacts.remote.open_run import shown_path
from ptl_prefix.artifacts.routing_facts import RoutingFacts, check_shapes
from ptl_prefix.artifacts.tensors_file import read_whole
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
    "read_routing",
    "write_bundle",
]


@dataclass(frozen=True, eq=False)
class Bundle:
    """A manifest and the tensors that it describes, on the CPU.

    Args:
        manifest: The manifest.
        tensors: The tensors.
        origin: Folder, address on the hub with the commit, or address in an object store.
        version: Version, 16 hexadecimal digits: the hash of the manifest's file, which holds the hash of the tensors.
    """

    manifest: Manifest
    tensors: dict[str, Tensor]
    origin: str = ""
    version: str = ""


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
        routing: What a server needs to recognise the task's texts; `None` leaves it out.
        document_sha256: Hash of the document that the bundle was made of; `None` for a bundle of no document.
        document_path: Absolute path of that document; `None` if it is not known.
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
    routing: RoutingFacts | None = None
    document_sha256: str | None = None
    document_path: str | None = None


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
    routing = contents.routing.to_arrays() if contents.routing is not None else {}
    routing_file = safetensors.torch.save({name: torch.from_numpy(array) for name, array in routing.items()})
    text = sealed_text(_manifest(contents, tensors, tensors_file, routing_file))
    with write_folder_atomically(folder) as unfinished:
        write_new_file(unfinished / TENSORS_FILE, tensors_file)
        write_new_file(unfinished / MANIFEST_FILE, text.encode())
        if routing:
            write_new_file(unfinished / ROUTING_FILE, routing_file)
            read_routing(unfinished)
        return read_bundle(unfinished)


def read_bundle(folder: str | Path) -> Bundle:
    """Read and check the bundle in `folder`, of the run in `folder`, or at an address on the hub.

    Raises:
        BundleError: The bundle is missing, damaged or of another version.
        HubError: The bundle is on the hub and cannot be fetched.
    """
    folder = find_bundle(folder)
    manifest, version = read_versioned_manifest(folder)
    path = Path(folder, TENSORS_FILE)
    with bundle_errors(path):
        content = read_whole(path, manifest.tensors, "tensors_sha256", manifest.tensors_sha256)
        tensors = _parse_tensors(content, manifest.tensors)
    return Bundle(manifest, tensors, _origin_of(folder), version)


def _origin_of(folder: Path) -> str:
    """The address that a bundle was fetched from, on the hub or in an object store; the folder if it is the user's."""
    address = shown_path(folder.parent)
    return origin_of(folder) if address == str(folder.parent) else address


def read_routing(folder: str | Path) -> RoutingFacts | None:
    """Read and check what a router needs of the bundle in `folder`, or of the bundle of the run in `folder`.

    Returns:
        The facts; `None` for a bundle without them.

    Raises:
        BundleError: The bundle is missing, or its manifest or the file is damaged or of another version.
    """
    folder = find_bundle(folder)
    entry, path = read_manifest(folder).routing, Path(folder, ROUTING_FILE)
    if entry is None:
        return None
    with bundle_errors(path):
        check_shapes({name: (info.shape, info.dtype) for name, info in entry.tensors.items()})
        tensors = _parse_tensors(read_whole(path, entry.tensors, "routing.sha256", entry.sha256), entry.tensors)
        return RoutingFacts.from_arrays({name: one.numpy() for name, one in tensors.items()}, entry.num_inputs)


def check_replaceable(folder: str | Path) -> None:
    """Refuse a folder with other files: `out=` may be mistyped, and replacing the folder would delete them.

    Raises:
        BundleError: If `folder` holds anything but a bundle.
    """
    folder = Path(folder)
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    own = {MANIFEST_FILE, TENSORS_FILE, ROUTING_FILE}
    if others := names - own - ({CARD_FILE} if names & own else set()):
        law = "A bundle must be written to a new folder or in place of a bundle"
        raise BundleError(f"{law}, but {folder} also holds {min(others)!r}; choose another folder.")


def _manifest(
    contents: BundleContents, tensors: Mapping[str, Tensor], tensors_file: bytes, routing_file: bytes
) -> Manifest:
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
        tensors_sha256=hashlib.sha256(tensors_file).hexdigest(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        package_version=package_version(),
        routing=None if contents.routing is None else _routing_entry(contents.routing, routing_file),
        document_sha256=contents.document_sha256,
        document_path=contents.document_path,
    )


def _routing_entry(routing: RoutingFacts, file: bytes) -> RoutingEntry:
    return RoutingEntry(
        scheme=SCHEME,
        num_inputs=routing.num_inputs,
        tensors={name: _info(torch.from_numpy(array)) for name, array in routing.to_arrays().items()},
        sha256=hashlib.sha256(file).hexdigest(),
    )


def _info(tensor: Tensor) -> TensorInfo:
    # A dtype outside the list is refused when the manifest is checked, by name.
    return TensorInfo(shape=tuple(tensor.shape), dtype=str(tensor.dtype).removeprefix("torch."))  # type: ignore[arg-type]


def _parse_tensors(content: bytes, infos: Mapping[str, TensorInfo]) -> dict[str, Tensor]:
    try:
        tensors = safetensors.torch.load(content)
    except (SafetensorError, ValueError, TypeError, LookupError, RuntimeError) as error:
        raise DocumentError(f"is not a safetensors file ({error})") from error
    found = {name: (tuple(tensor.shape), str(tensor.dtype)) for name, tensor in tensors.items()}
    wanted = {name: (info.shape, f"torch.{info.dtype}") for name, info in infos.items()}
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            raise DocumentError(f"has {found.get(name)} as {name!r}, and its manifest says {wanted.get(name)}")
    if fact := _non_finite_problem(tensors):
        raise DocumentError(f"holds non-finite numbers: {fact}")
    return {name: tensors[name] for name in infos}


def _non_finite_problem(tensors: Mapping[str, Tensor]) -> str | None:
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            return f"{name!r} has NaN or infinity"
    return None
