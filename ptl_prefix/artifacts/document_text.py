"""The text of a document, and whether its file still has the text that a bundle was made of.

In: a text file, or the manifest of a bundle. Out: the text and its hash; the state of the bundle's document, and a
sentence for the user where it has changed. A bundle of a changed document is still used, and answers from the older
text.
"""

import hashlib
import os
import stat
from functools import lru_cache
from pathlib import Path
from typing import Literal

from ptl_prefix.artifacts.manifest import Manifest
from ptl_prefix.errors import DataError

DocumentState = Literal["unchanged", "changed", "missing", "unknown"]
"""What a document is today, beside the text that a bundle was made of: its file is gone, or cannot be compared."""

_MAX_BYTES = 64 * 2**20


def read_document(path: str | Path) -> str:
    """The text of a file in UTF-8; a byte order mark is left out, and lines end in LF.

    Raises:
        DataError: The file cannot be read, is no text, or is empty.
    """
    law = f"A document must be a text file in UTF-8, but {path}"
    try:
        with Path(path).open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise DataError(f"{law} cannot be read ({error.strerror}); correct the path.") from error
    if len(content) > _MAX_BYTES:
        raise DataError(f"{law} has more than {_MAX_BYTES:,} bytes; divide it.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{law} has the byte {content[error.start]:#04x} at {error.start}; convert it.") from error
    if "\0" in text:
        raise DataError(f"{law} holds a zero byte, as files do that are no text; convert it to text.")
    if not text.strip():
        raise DataError(f"{law} is empty; choose another one.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def text_sha256(text: str) -> str:
    """The SHA-256 of the document, which its bundle records: another one means that the document has changed."""
    return hashlib.sha256(text.encode()).hexdigest()


def document_state(manifest: Manifest) -> DocumentState | None:
    """The state of the document that a bundle was made of; `None` for a bundle of no document.

    The file is read once, and again when its size or times have changed.
    """
    if manifest.document_sha256 is None:
        return None
    path = manifest.document_path
    # A relative path would mean another file in each working directory.
    if path is None or not os.path.isabs(path):
        return "unknown"
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return "missing"
    if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for
        return "unknown"
    sha256 = _file_sha256(path, (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))
    if sha256 is None:
        return "unknown"
    return "unchanged" if sha256 == manifest.document_sha256 else "changed"


def stale_note(manifest: Manifest) -> str | None:
    """A sentence for the user of a bundle whose document has changed; `None` for any other bundle."""
    if document_state(manifest) != "changed":
        return None
    return (
        f"its document {manifest.document_path} has changed since it was made, so it answers from the older text; "
        "`ptl-prefix distill` trains it further with update=<its run folder>"
    )


@lru_cache(maxsize=4096)
def _file_sha256(path: str, stamp: tuple[int, ...]) -> str | None:
    """The hash of a document's file; empty if it is no text any more, `None` if it cannot be read."""
    try:
        return text_sha256(read_document(path))
    except DataError as error:
        return None if isinstance(error.__cause__, OSError) else ""
