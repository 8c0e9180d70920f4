"""The file of a checkpoint: a zip archive that `torch.save` wrote.

In: its path. Out: its content; else `RunError`. The archive holds a CRC-32 of each of its parts, which `torch.load`
does not compare with the content: without the check here, a flipped bit would be trained on and exported.
"""

import zipfile
import zlib
from pathlib import Path
from typing import Any

from ptl_prefix.errors import RunError


def require_intact_checkpoint(path: str | Path) -> None:
    """Compare every part of a checkpoint's archive with its CRC-32, in little memory; no tensor is loaded.

    Raises:
        RunError: The file cannot be read, is no whole archive, or holds other bytes than were written.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    # A damaged directory of the archive can name any compression, flags and offsets.
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise _refusal(path, str(error)) from error
    if damaged is not None:
        raise _refusal(path, f"its part {damaged!r} does not agree with its own checksum")


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a whole and unchanged checkpoint onto the CPU; no code in it is run.

    Raises:
        RunError: The file cannot be read, is damaged, or holds anything but tensors and plain values.
    """
    import torch

    require_intact_checkpoint(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # foreign archives raise many types of errors
        raise _refusal(path, str(error)) from error
    if not isinstance(content, dict):
        raise _refusal(path, f"it holds a {type(content).__name__}")
    return content


def _refusal(path: str | Path, fact: str) -> RunError:
    return RunError(
        f"A checkpoint must be one that `ptl-prefix train` wrote, whole and unchanged, but '{path}' is not: {fact}; "
        "use another checkpoint of the run, or train again."
    )
