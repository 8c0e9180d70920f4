"""Checkpoints as files: written whole, and checked byte by byte before they are believed.

In: the state of a training, or the path of a checkpoint. Out: a file in torch's format, or the state. The format is a
zip archive with a checksum for each tensor, which torch writes but never compares: a flipped bit would go unnoticed.
"""

import io
import zipfile
from pathlib import Path
from typing import Any

from ptl_prefix.artifacts.atomic import write_new_file
from ptl_prefix.errors import RunError


def write_checkpoint(path: Path, state: Any) -> None:
    """Write a checkpoint as a new file, straight to its path.

    Raises:
        StorageError: If the disk does not take the file; the message has the bytes that it needs.
    """
    import torch

    content = io.BytesIO()
    torch.save(state, content)
    write_new_file(path, content.getbuffer())


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint into memory on the CPU, after comparing its checksums.

    Raises:
        RunError: If it is missing or damaged, or is not a checkpoint.
    """
    import torch

    try:
        if fact := _damage(path):
            raise _damaged(path, fact)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except RunError:
        raise
    except Exception as error:  # damaged archives raise many types of errors
        raise _damaged(path, str(error).splitlines()[0] if str(error) else type(error).__name__) from error
    if not isinstance(state, dict) or not {"state_dict", "global_step", "callbacks"} <= state.keys():
        raise _damaged(path, "it holds something else")
    return state


def _damage(path: str | Path) -> str | None:
    """The first part of the archive whose bytes do not have its checksum, in words; `None` if all have."""
    with zipfile.ZipFile(path) as archive:
        name = archive.testzip()
    return None if name is None else f"the bytes of its part {name!r} do not have the checksum that was stored"


def _damaged(path: str | Path, fact: str) -> RunError:
    return RunError(f"A checkpoint must be whole and written by `ptl-prefix train`, but '{path}' is not: {fact}.")
