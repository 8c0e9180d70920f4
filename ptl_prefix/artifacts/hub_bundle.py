"""Bundles on the Hugging Face hub.

In: the address of a bundle, or a bundle's folder. Out: a folder with the plain files of one commit; or a new commit. A
repository may come from anyone: only the files of a bundle are fetched, and `read_bundle` reads them as strictly as
any other. What is uploaded names no folder of this machine.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ptl_prefix.artifacts.atomic import write_file_atomically
from ptl_prefix.artifacts.hub import Commit, fetch_file, fetch_pinned, upload_files
from ptl_prefix.artifacts.hub_address import HubAddress, public_path
from ptl_prefix.artifacts.manifest import (
    MANIFEST_FILE,
    MAX_MANIFEST_BYTES,
    ROUTING_FILE,
    TENSORS_FILE,
    Manifest,
    max_file_bytes,
    read_manifest,
    sealed_text,
)
from ptl_prefix.artifacts.model_card import CARD_FILE, HERE


def fetch_bundle(text: str) -> Path:
    """The folder of the bundle at `hub:<user>/<name>[@<revision>]`; it is fetched unless its commit was before.

    Raises:
        HubError: The address is malformed, there is no bundle at it, or the hub cannot be asked.
        BundleError: The manifest there is damaged or of another version.
    """
    address = fetch_pinned(HubAddress.parse(text), MANIFEST_FILE, max_bytes=MAX_MANIFEST_BYTES)
    _put(address, MANIFEST_FILE, MAX_MANIFEST_BYTES)
    manifest = read_manifest(address.folder)
    _put(address, TENSORS_FILE, max_file_bytes(manifest.tensors))
    if manifest.routing is not None:
        _put(address, ROUTING_FILE, max_file_bytes(manifest.routing.tensors))
    return address.folder


def fetch_adapter(text: str, names: Mapping[str, int]) -> Path:
    """The folder of an adapter at `hub:<user>/<name>[@<revision>]`.

    Args:
        text: The address.
        names: Names of the files, with the most bytes that each may have.

    Raises:
        HubError: As for a bundle.
    """
    first = next(iter(names))
    address = fetch_pinned(HubAddress.parse(text), first, max_bytes=names[first])
    for name, max_bytes in names.items():
        _put(address, name, max_bytes)
    return address.folder


def push_bundle(folder: Path, manifest: Manifest, card: str, address: HubAddress, *, private: bool) -> Commit:
    """Upload a bundle and its card, in one commit.

    Args:
        folder: The bundle's folder, as it was read.
        manifest: Its manifest.
        card: Text of its model card.
        address: Repository and branch.
        private: Whether the repository must be private.

    Raises:
        HubError: The hub cannot be reached or refuses.
    """
    files: dict[str, Path | bytes] = {
        CARD_FILE: card.replace(HERE, f"hub:{address.repo}").encode(),
        MANIFEST_FILE: sealed_text(_without_local_path(manifest)).encode(),
        TENSORS_FILE: folder / TENSORS_FILE,
    }
    if manifest.routing is not None:
        files[ROUTING_FILE] = folder / ROUTING_FILE
    message = f"Bundle of {manifest.method} on {manifest.backbone.name} for {manifest.task}"
    return upload_files(address, files, private=private, message=message)


def _put(address: HubAddress, name: str, max_bytes: int) -> None:
    """Put a file of a commit into its folder of plain files, where it takes no further space if the disk allows it."""
    path = address.folder / name
    if path.is_file():
        return
    cached = os.path.realpath(fetch_file(address, name, max_bytes=max_bytes))
    with write_file_atomically(path, follow_links=False) as temporary:
        try:
            os.link(cached, temporary)
        except OSError:  # another disk, or one without hard links
            shutil.copyfile(cached, temporary)


def _without_local_path(manifest: Manifest) -> Manifest:
    """The manifest with the backbone's name in the place of a folder of this machine."""
    path = public_path(manifest.backbone.path) or manifest.backbone.name
    return replace(manifest, backbone=replace(manifest.backbone, path=path), document_path=None)
