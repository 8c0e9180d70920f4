"""Whether a W&B run file is complete, that is, whether it contains the run's exit record.

In: a `.wandb` file. Out: a boolean. W&B's process writes blocks of 32 KiB, and loses the last block when it is killed.
The file is a LevelDB log of protobuf messages; only the field numbers of the messages are read.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

_FILE_HEADER_BYTES = 7
_BLOCK_BYTES = 32 * 1024
_CHUNK_HEADER = struct.Struct("<IHB")  # checksum, length, kind
_FULL, _FIRST, _LAST = 1, 2, 4
_EXIT_FIELD = 18
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def is_complete(file: Path) -> bool:
    """Whether a file contains the end of its run, whatever the exit code."""
    try:
        content = file.read_bytes()
    except OSError:
        return False
    return any(_EXIT_FIELD in _fields(record) for record in _records(content))


def _records(content: bytes) -> Iterator[bytes]:
    """The messages of a log, up to the first incomplete one; a message may span chunks of several blocks."""
    at, record = _FILE_HEADER_BYTES, b""
    while at + _CHUNK_HEADER.size <= len(content):
        left_in_block = _BLOCK_BYTES - at % _BLOCK_BYTES
        if left_in_block < _CHUNK_HEADER.size:
            at += left_in_block
            continue
        _, length, kind = _CHUNK_HEADER.unpack_from(content, at)
        start = at + _CHUNK_HEADER.size
        at = start + length
        if kind == 0 or at > len(content):
            return
        record = content[start:at] if kind in (_FULL, _FIRST) else record + content[start:at]
        if kind in (_FULL, _LAST):
            yield record


def _fields(message: bytes) -> set[int]:
    """The field numbers of a message; of a malformed message, those before the error."""
    found: set[int] = set()
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        wire = tag & 7
        if wire == _VARINT:
            _, at = _varint(message, at)
        elif wire == _BYTES:
            length, at = _varint(message, at)
            at += length
        elif wire in (_FIXED64, _FIXED32):
            at += 8 if wire == _FIXED64 else 4
        else:
            break
        if at <= len(message):
            found.add(tag >> 3)
    return found


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Decode a varint, and return the offset behind it."""
    value = shift = 0
    while at < len(message):
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            break
    return value, at
