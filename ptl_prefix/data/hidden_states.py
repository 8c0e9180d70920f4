"""Hidden states of a split on disk: what a layer of the backbone reads of each row.

In: a split's rows, and the states of each token, computed once. Out: `HiddenStates`, memory-mapped, which the processes
of one machine share. Rows of one example with the same prompt have its tokens once: on E2E that is half of the bytes.

Each folder is a cache entry, whose name is the hash of all that the states depend on. It is written under a temporary
name and renamed, whole or not at all. A file that is in use is locked: entries that were not used for the longest time
make room for new ones, but never one that a process reads.
"""

import contextlib
import hashlib
import json
import os
import shutil
import weakref
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ptl_prefix.artifacts.atomic import remove_leftovers, storage_errors, write_folder_atomically
from ptl_prefix.artifacts.file_lock import lock_file
from ptl_prefix.backbones.layer_input import LayerInput
from ptl_prefix.data.encoded_split import EncodedSplit

_STATES, _FACTS = "states.bin", "facts.json"
Column = npt.NDArray[Any]
"""Whole numbers, one for each row, or for each id."""


class TokenPlaces:
    """The places of a split's tokens in a file that holds shared prompts once.

    The first ids of a row, all of its prompt but the last id, may be those of an earlier row; behind the last one the
    rows differ, and with an infix its position does, too.

    Args:
        encoded: Encoded split.
    """

    def __init__(self, encoded: EncodedSplit) -> None:
        ids, num_source_ids, examples = encoded.ids, encoded.num_source_ids, encoded.examples
        self.fingerprint = _fingerprint(ids, encoded.lengths, num_source_ids, examples)
        """The hash of all ids and of their division into prompts, targets and examples."""
        self._lengths = encoded.lengths
        self._num_shared = np.maximum(num_source_ids - 1, 0)
        repeats = _repeats_prompt(ids, encoded.lengths, num_source_ids, examples)
        own = self._lengths - np.where(repeats, self._num_shared, 0)
        # A row's own tokens stand one after another; a prompt that it shares is where its example's first row starts.
        starts = np.cumsum(own) - own
        first = np.maximum.accumulate(np.where(own == self._lengths, np.arange(len(own)), 0))
        self._prompts = starts[first]
        self._rest = starts + np.where(own == self._lengths, self._num_shared, 0)
        self.num_tokens = int(own.sum())

    def of_row(self, index: int) -> list[slice]:
        """The places of a row's tokens, in order."""
        prompt, rest, shared = (int(column[index]) for column in (self._prompts, self._rest, self._num_shared))
        return [slice(prompt, prompt + shared), slice(rest, rest + int(self._lengths[index]) - shared)]

    def numbered(self, layer: int) -> Callable[[int], LayerInput]:
        """For each row, the places of its tokens plus 1 in place of states: 0 is then what batches are filled with."""

        def of_row(index: int) -> LayerInput:
            places = [torch.arange(part.start, part.stop) for part in self.of_row(index)]
            return LayerInput(layer, 1 + torch.cat(places)[:, None])

        return of_row


def _repeats_prompt(ids: Column, lengths: Column, num_source_ids: Column, examples: Column) -> npt.NDArray[np.bool_]:
    """Whether each row has the example and the prompt of the row before it."""
    starts = np.cumsum(lengths) - lengths
    repeats = np.zeros(len(lengths), dtype=np.bool_)
    same = (np.diff(examples) == 0) & (np.diff(num_source_ids) == 0)
    for row in np.flatnonzero(same) + 1:
        number = num_source_ids[row]
        earlier, own = (ids[start : start + number] for start in starts[row - 1 : row + 1])
        repeats[row] = number > 1 and np.array_equal(earlier, own)
    return repeats


def _fingerprint(*columns: Column) -> str:
    digest = hashlib.sha256()
    for column in columns:
        digest.update(str(column.shape).encode())
        digest.update(np.ascontiguousarray(column).data)
    return digest.hexdigest()


class HiddenStates:
    """The hidden states in the folder of an entry; while it is in use, the entry stays on disk.

    Args:
        folder: Folder of the entry.
        places: Places of the rows' tokens.
        layer: Layer that reads the states.
        width: Width of the states.
        dtype: Dtype of the states.

    Raises:
        OSError: The entry is not there, is not whole, or is being removed.
    """

    def __init__(self, folder: Path, places: TokenPlaces, *, layer: int, width: int, dtype: torch.dtype) -> None:
        path = folder / _STATES
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, descriptor)
        if not _is_locked(descriptor):
            raise OSError(f"{path} is being removed.")
        numbers = places.num_tokens * width
        # Only now: until it was locked, the entry could be removed.
        if (found := path.stat().st_size) != numbers * dtype.itemsize:
            raise OSError(f"{path} must have {numbers * dtype.itemsize} bytes, but has {found}.")
        self._states = torch.from_file(str(path), shared=False, size=numbers, dtype=dtype).view(-1, width)
        self._places, self._layer = places, layer
        with contextlib.suppress(OSError):
            os.utime(folder)  # the time of its last use

    def __call__(self, index: int) -> LayerInput:
        """What the layer reads of a row."""
        return LayerInput(self._layer, torch.cat([self._states[part] for part in self._places.of_row(index)]))

    @classmethod
    def find(cls, folder: Path, places: TokenPlaces, *, layer: int, width: int, dtype: torch.dtype) -> Self | None:
        """The states in a folder; `None` if there are none."""
        try:
            return cls(folder, places, layer=layer, width=width, dtype=dtype)
        except OSError:
            return None


def _is_locked(descriptor: int) -> bool:
    """Lock an open file for reading; a file system without locks is no reason not to read it."""
    try:
        return lock_file(descriptor, shared=True, timeout_s=0.0)
    except OSError:
        return True


def write_hidden_states(
    folder: Path,
    computed: Iterable[tuple[Tensor, Tensor]],
    *,
    num_tokens: int,
    width: int,
    dtype: torch.dtype,
    facts: Mapping[str, Any],
) -> None:
    """Write the states of all tokens as an entry, whole or not at all.

    Args:
        folder: Folder of the entry.
        computed: For each batch, the places of its tokens plus 1, (batch, text, 1), 0 where it is padded; and what the
            layer reads, (batch, text, width).
        num_tokens: Number of tokens of the whole split.
        width: Width of the states.
        dtype: Dtype of the states.
        facts: What the states are, for a person who looks into the folder.

    Raises:
        StorageError: The disk has no such space, or does not take the folder.
    """
    num_bytes = num_tokens * width * dtype.itemsize
    with write_folder_atomically(folder) as temporary:
        path = temporary / _STATES
        with storage_errors(path, num_bytes):
            _allocate(path, num_bytes)
        states = torch.from_file(str(path), shared=True, size=num_tokens * width, dtype=dtype).view(-1, width)
        num_written = 0
        for numbers, values in computed:
            is_token = numbers[..., 0] > 0
            states[numbers[is_token][:, 0] - 1] = values[is_token].to(states)
            num_written += int(is_token.sum())
        assert num_written >= num_tokens, "tokens without states"
        text = json.dumps({**facts, "num_tokens": num_tokens, "width": width, "dtype": str(dtype)}, indent=2)
        (temporary / _FACTS).write_text(text + "\n", encoding="utf-8")


def _allocate(path: Path, num_bytes: int) -> None:
    """Make a file that occupies its space: on a full disk a write to mapped memory would kill the process."""
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, num_bytes)
        else:  # macOS
            for start in range(0, num_bytes, 2**24):
                file.write(bytes(min(2**24, num_bytes - start)))


def make_room(folder: Path, num_bytes: int, *, limit: int) -> int:
    """Remove entries until another one fits a limit, those that were not used for the longest time first.

    Args:
        folder: Folder of all entries.
        num_bytes: Bytes of the new entry.
        limit: Most bytes of all entries together.

    Returns:
        Bytes of the entries that are left: more than fit beside the new one, if all of them are in use.
    """
    if not folder.is_dir():
        return 0
    remove_leftovers(folder)
    sizes = {path: _bytes_of(path) for path in folder.iterdir()}
    left = sum(sizes.values())
    # Those that begin with a dot are being written.
    whole = (path for path, size in sizes.items() if size and not path.name.startswith("."))
    for entry in sorted(whole, key=_last_use):
        if left + num_bytes <= limit:
            break
        if _remove(entry):
            left -= sizes[entry]
    return left


def _bytes_of(entry: Path) -> int:
    try:
        return (entry / _STATES).stat().st_size
    except OSError:
        return 0


def _last_use(entry: Path) -> float:
    try:
        return entry.stat().st_mtime
    except OSError:  # another process has removed it
        return 0.0


def _remove(entry: Path) -> bool:
    """Remove an entry, unless a process reads it; `False` if it is still there."""
    try:
        with (entry / _STATES).open("rb") as file:
            if not lock_file(file, timeout_s=0.0):
                return False
            gone = entry.with_name(f".{entry.name}.tmp-removed")
            entry.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)
    except OSError:
        return False
    return True
