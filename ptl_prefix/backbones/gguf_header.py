"""The header of a GGUF file: its metadata, and the names, shapes and places of its tensors.

In: the path of a file, or of its first part. Out: `GgufHeader`, or a `GgufHeaderError` that says what is wrong. Any
bytes may come: each length is compared with the file's before it is used, and no tensor is read.
"""

import math
import mmap
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
_FORMATS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
"""Formats of the metadata's fixed-size values, by GGUF's number for the type."""

# Far above every file there is, and small enough to loop over.
_MAX_ENTRIES, _MAX_TENSORS, _MAX_ITEMS, _MAX_DIMENSIONS = 2**16, 2**18, 2**22, 4
_MAX_TEXT_BYTES = 2**24
_PIECE_BYTES = 2**20
_DEFAULT_ALIGNMENT, _MAX_ALIGNMENT = 32, 2**20

_FLOATS = {
    GGMLQuantizationType.F32: torch.float32,
    GGMLQuantizationType.F16: torch.float16,
    GGMLQuantizationType.BF16: torch.bfloat16,
}


class GgufHeaderError(ValueError):
    """What is wrong with a header, as the end of a sentence that starts with the file's name."""


@dataclass(frozen=True)
class GgufArray:
    """An array in the metadata, whose items are not kept.

    Args:
        num_items: Number of its items.
    """

    num_items: int


@dataclass(frozen=True)
class GgufTensor:
    """One line of the table of tensors.

    Args:
        name: Name in llama.cpp's convention.
        shape: Shape, the fastest dimension first.
        kind: Quantisation or float type.
        start: Start of its bytes, from the start of the file's data.
        num_bytes: Number of its bytes.
    """

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    start: int
    num_bytes: int


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says before its tensors.

    Args:
        metadata: Values by key.
        tensors: The table of tensors.
        entries: Span of each key and its value in the file.
        table: Span of the table of tensors in the file.
        alignment: Divisor of the place where the data starts.
    """

    metadata: Mapping[str, Any]
    tensors: tuple[GgufTensor, ...]
    entries: Mapping[str, tuple[int, int]]
    table: tuple[int, int]
    alignment: int

    @property
    def data_start(self) -> int:
        """Start of the tensors' data in the file."""
        return _aligned(self.table[1], self.alignment)

    @property
    def num_bytes(self) -> int:
        """Bytes that a whole file has at least."""
        return self.data_start + max((tensor.start + tensor.num_bytes for tensor in self.tensors), default=0)

    @property
    def num_elements(self) -> int:
        """Numbers in all tensors together."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors)

    @cached_property
    def architecture(self) -> str:
        """llama.cpp's name of the model's architecture."""
        return str(self.metadata["general.architecture"])

    def value(self, key: str, default: Any = None) -> Any:
        """The value of a key of the architecture, such as `block_count`; `default` if the file has none."""
        return self.metadata.get(f"{self.architecture}.{key}", default)

    def tensor(self, name: str) -> GgufTensor | None:
        """The tensor of a name; `None` if the file has none."""
        return next((tensor for tensor in self.tensors if tensor.name == name), None)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that holds the weights: the file's own half type, bfloat16 if it is quantised, else float32."""
        kinds = {tensor.kind for tensor in self.tensors}
        if not kinds <= set(_FLOATS) or GGMLQuantizationType.BF16 in kinds:
            return torch.bfloat16
        # Vectors, such as the scales of norms, are float32 in a float16 file.
        return torch.float16 if GGMLQuantizationType.F16 in kinds else torch.float32


def pieces_of(parts: Sequence[Path], *, skip: int = 0) -> Iterator[bytes]:
    """The content of a file in pieces, from its parts.

    Args:
        parts: The parts in order.
        skip: Number of bytes to leave out at the start.

    Raises:
        OSError: When a part cannot be read.
    """
    for path in parts:
        size = path.stat().st_size
        if skip >= size:
            skip -= size
            continue
        with path.open("rb") as file:
            file.seek(skip)
            skip = 0
            while piece := file.read(_PIECE_BYTES):
                yield piece


def read_header(path: Path) -> GgufHeader:
    """The header of a GGUF file.

    Args:
        path: The file, or its first part.

    Raises:
        GgufHeaderError: When it is no whole header.
        OSError: When the file cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(24)
        if start[:4] != _MAGIC:
            raise GgufHeaderError("does not start with the bytes `GGUF`, so it is another kind of file")
        if len(start) < 24:
            raise GgufHeaderError("ends inside its header: it is truncated; get it again")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _parsed(_Cursor(data, 4))


class _Cursor:
    """A position in the bytes of a file, which moves past each value that is read."""

    def __init__(self, data: mmap.mmap, position: int) -> None:
        self._data = data
        self.position = position

    def skip(self, num_bytes: int) -> int:
        """Move past a number of bytes, and return where they start."""
        start = self.position
        if num_bytes > len(self._data) - start:
            raise GgufHeaderError("ends inside its header: it is truncated; get it again")
        self.position = start + num_bytes
        return start

    def number(self, form: str) -> Any:
        """One number, by its format in `struct`."""
        return struct.unpack_from(form, self._data, self.skip(struct.calcsize(form)))[0]

    def text(self) -> str:
        """One string."""
        start, end = self._string()
        try:
            return self._data[start:end].decode("utf-8")
        except UnicodeDecodeError:
            raise GgufHeaderError("has a header that is not UTF-8: it is damaged; get it again") from None

    def _string(self) -> tuple[int, int]:
        length = self.count("<Q", _MAX_TEXT_BYTES, "bytes in a string")
        return self.skip(length), self.position

    def count(self, form: str, largest: int, of: str) -> int:
        """A number of things that follow."""
        number = int(self.number(form))
        if number > largest:
            raise GgufHeaderError(f"states {number} {of}, more than {largest}: it is damaged; get it again")
        return number

    def value(self) -> Any:
        """One value of the metadata."""
        kind = self.number("<I")
        if kind == _STRING:
            return self.text()
        return self._array() if kind == _ARRAY else self.number(_format(kind))

    def _array(self) -> GgufArray:
        kind = self.number("<I")
        num_items = self.count("<Q", _MAX_ITEMS, "items in an array")
        if kind == _STRING:
            for _ in range(num_items):
                self._string()
        else:
            self.skip(num_items * struct.calcsize(_format(kind)))
        return GgufArray(num_items)


def _format(kind: int) -> str:
    try:
        return _FORMATS[kind]
    except KeyError:
        raise GgufHeaderError(f"has a value of the unknown type {kind}: it is damaged; get it again") from None


def _parsed(cursor: _Cursor) -> GgufHeader:
    version = cursor.number("<I")
    if version not in _VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        fact = "big-endian" if swapped in _VERSIONS else f"of version {version}"
        raise GgufHeaderError(f"is {fact}, not little-endian of version 2 or 3; convert it anew with llama.cpp")
    num_tensors = cursor.count("<Q", _MAX_TENSORS, "tensors")
    num_entries = cursor.count("<Q", _MAX_ENTRIES, "metadata entries")
    metadata, entries = {}, {}
    for _ in range(num_entries):
        start = cursor.position
        key = cursor.text()
        if key in metadata:
            raise GgufHeaderError(f"states `{key}` twice: it is damaged; get it again")
        metadata[key] = cursor.value()
        entries[key] = start, cursor.position
    if not isinstance(metadata.get("general.architecture"), str):
        raise GgufHeaderError("does not state `general.architecture`; convert it anew with llama.cpp")
    start = cursor.position
    tensors = tuple(_tensor(cursor) for _ in range(num_tensors))
    if len({tensor.name for tensor in tensors}) < num_tensors:
        raise GgufHeaderError("has two tensors of one name: it is damaged; get it again")
    return GgufHeader(metadata, tensors, entries, (start, cursor.position), _alignment(metadata))


def _tensor(cursor: _Cursor) -> GgufTensor:
    name = cursor.text()
    num_dimensions = cursor.count("<I", _MAX_DIMENSIONS, "dimensions of a tensor")
    shape = tuple(int(cursor.number("<Q")) for _ in range(num_dimensions))
    number, offset = cursor.number("<I"), cursor.number("<Q")
    try:
        kind = GGMLQuantizationType(number)
    except ValueError:
        raise GgufHeaderError(f"holds `{name}` in the unknown quantisation {number}; use another file") from None
    block_size, block_bytes = GGML_QUANT_SIZES[kind]
    size = math.prod(shape)
    if size % block_size or (block_size > 1 and shape and shape[0] % block_size):
        raise GgufHeaderError(f"holds `{name}` in an impossible shape: it is damaged; get it again")
    return GgufTensor(name, shape, kind, offset, size // block_size * block_bytes)


def _alignment(metadata: Mapping[str, Any]) -> int:
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    is_possible = isinstance(alignment, int) and 8 <= alignment <= _MAX_ALIGNMENT and not alignment % 8
    if not is_possible:
        raise GgufHeaderError("states an impossible `general.alignment`: it is damaged; get it again")
    return int(alignment)


def _aligned(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment
