"""The files of a bundle that hold tensors, as bytes: their sizes and hashes, before anything is made of them.

In: a path, and what the bundle's manifest says of the file. Out: its content; else `DocumentError`. Sizes are compared
before memory is allocated for them.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from ptl_prefix.artifacts.json_document import DocumentError
from ptl_prefix.artifacts.manifest import (
    MAX_HEADER_BYTES,
    TENSORS_FILE,
    Manifest,
    TensorInfo,
    bundle_errors,
    num_tensor_bytes,
    require_plain_file,
)


def check_tensors_file(folder: str | Path, manifest: Manifest, *, reads_content: bool) -> None:
    """Check that the file with a bundle's tensors is the one that its manifest describes; no tensor is made of it.

    Args:
        folder: Folder of the bundle.
        manifest: Its manifest.
        reads_content: Whether the content is hashed, a piece at a time, and not only the size compared.

    Raises:
        BundleError: The file is missing, truncated or of another bundle.
    """
    path = Path(folder, TENSORS_FILE)
    with bundle_errors(path), _opened(path) as file:
        _check_sizes(file, num_tensor_bytes(manifest.tensors))
        if reads_content:
            file.seek(0)
            _check_hash(hashlib.file_digest(file, "sha256").hexdigest(), "tensors_sha256", manifest.tensors_sha256)


def read_whole(path: Path, infos: Mapping[str, TensorInfo], key: str, sha256: str) -> bytes:
    """Read the file once, so that the bytes that are hashed are the bytes that are parsed.

    It is not mapped into memory: what is written to a mapped file changes the tensors behind the hash, and a process
    that reads a mapped file which was cut short is killed.
    """
    with _opened(path) as file:
        _check_sizes(file, num_tensor_bytes(infos))
        file.seek(0)
        content = file.read()
    _check_hash(hashlib.sha256(content).hexdigest(), key, sha256)
    return content


def _check_hash(found: str, key: str, wanted: str) -> None:
    if found != wanted:
        raise DocumentError(f"has other content than its manifest's `{key}` says")


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    require_plain_file(path)
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise DocumentError(f"cannot be read ({error.strerror})") from error


def _check_sizes(file: BufferedReader, num_bytes: int) -> None:
    """Compare the file's size with the sizes in its header and manifest, before any memory is allocated for them."""
    size = os.fstat(file.fileno()).st_size
    header_bytes = int.from_bytes(file.read(8), "little")
    if header_bytes > MAX_HEADER_BYTES:
        raise DocumentError(f"claims a header of {header_bytes} bytes, more than {MAX_HEADER_BYTES}")
    if size != 8 + header_bytes + num_bytes:
        wanted = f"8 and a header of {header_bytes} and tensors of {num_bytes}"
        raise DocumentError(f"has {size} bytes, not {wanted}: it is truncated, or not of this bundle")
