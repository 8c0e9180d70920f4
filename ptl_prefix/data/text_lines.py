"""The lines of a text file, one at a time, whatever its encoding and compression.

In: a path, and how the file is written. Out: numbered lines, split at LF only, as text may hold other characters that
Python treats as line ends, a lone CR among them. A byte order mark names the encoding; without one, files are UTF-8. A
file that is not, or that holds U+0000, is refused. Files that end in `.gz` or `.zst` are decompressed as they are read.
"""

import codecs
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from ptl_prefix.errors import DataError

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
"""Names of the compressions of text files, by the last suffix of a file."""

_MARKS = (
    # UTF-32 first: its mark begins with that of UTF-16.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_UTF_8 = ("utf-8", "utf-8-sig")

OnRead = Callable[[int], None]
"""Called with the number of bytes of a file that were read since the last call; of a compressed file, its own bytes."""


def unreported(num_bytes: int) -> None:
    """The `OnRead` of a reader whose progress nobody follows."""


@dataclass(frozen=True, kw_only=True)
class TextFormat:
    """How text files are written.

    Args:
        encoding: Name of the encoding; `None`: the one of the byte order mark, else UTF-8.
        separator: Character between the cells of a CSV or TSV file; `None`: found out from the first line.
        has_settings: Whether the user can change these as `task.encoding` and `task.separator`; messages then say so.
    """

    encoding: str | None = None
    separator: str | None = None
    has_settings: bool = False

    @property
    def encoding_advice(self) -> str:
        """What to do about a file in another encoding, as the end of a message."""
        setting = "name its encoding, for example `task.encoding=latin-1` or `task.encoding=utf-16`, or "
        return f"{setting if self.has_settings else ''}convert it to UTF-8"

    @property
    def separator_advice(self) -> str:
        """What to do about rows that are split at the wrong character, as the end of a message."""
        return ", or name the character between cells, for example `task.separator=;`" if self.has_settings else ""


def is_encoding(name: str) -> bool:
    """Whether Python knows a text encoding by this name."""
    try:
        return bool("a".encode(name))
    except (LookupError, ValueError):
        return False


def numbered_lines(path: Path, text_format: TextFormat, on_read: OnRead = unreported) -> Iterator[tuple[int, str]]:
    """The lines of a file with their numbers, from 1; each keeps its line end.

    Raises:
        DataError: The file is not of its encoding, or holds U+0000; the message names the line.
    """
    encoding = text_format.encoding or _marked_encoding(path)
    is_utf_8 = codecs.lookup(encoding).name in _UTF_8
    lines = (
        _utf_8_lines(path, text_format, on_read) if is_utf_8 else _decoded_lines(path, encoding, text_format, on_read)
    )
    for number, line in lines:
        if "\0" in line:
            raise DataError(
                f"{path}, line {number}: text must not hold the character U+0000, but does (is it UTF-16?); "
                f"{text_format.encoding_advice}, or remove the character."
            )
        yield number, line


class _RawBytes(io.RawIOBase):
    """The bytes of a file, decompressed if its name says that it is compressed.

    Args:
        path: File.
        on_read: Callback for progress.
    """

    def __init__(self, path: Path, on_read: OnRead) -> None:
        self._path, self._on_read = path, on_read
        self._compression = COMPRESSIONS.get(path.suffix.lower())
        self._file = path.open("rb", buffering=0)
        # A pyarrow file of its own: the position of the compressed bytes is asked for after each read.
        self._stream: pa.NativeFile | None = None
        if self._compression is not None:
            self._stream = pa.CompressedInputStream(pa.PythonFile(self._file, mode="r"), self._compression)
        self._position = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read bytes into a buffer, and report those of the file.

        Raises:
            DataError: The file is not compressed as its name says, or is damaged.
        """
        if self._stream is None:
            count = self._file.readinto(buffer) or 0
        else:
            try:
                data = self._stream.read(len(buffer))
            except (OSError, pa.ArrowException) as error:
                raise DataError(
                    f"{self._path} must be a whole {self._compression} file, but cannot be decompressed ({error}); "
                    "compress or download it again."
                ) from error
            count = len(data)
            buffer[:count] = data
        position = self._file.tell()
        self._on_read(position - self._position)
        self._position = position
        return count

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


@contextmanager
def _opened(path: Path, on_read: OnRead = unreported) -> Iterator[BinaryIO]:
    """The bytes of a text file; the only place where one is opened."""
    with io.BufferedReader(_RawBytes(path, on_read)) as file:
        yield file


def _marked_encoding(path: Path) -> str:
    """The encoding that a byte order mark names; UTF-8 without one."""
    with _opened(path) as file:
        start = file.read(4)
    return next((encoding for mark, encoding in _MARKS if start.startswith(mark)), "utf-8")


def _utf_8_lines(path: Path, text_format: TextFormat, on_read: OnRead) -> Iterator[tuple[int, str]]:
    with _opened(path, on_read) as file:
        for number, line in enumerate(file, start=1):
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path}, line {number}: a file must be UTF-8, but byte {line[error.start]:#04x} is not "
                    f"(is it Latin-1?); {text_format.encoding_advice}."
                ) from error


def _decoded_lines(path: Path, encoding: str, text_format: TextFormat, on_read: OnRead) -> Iterator[tuple[int, str]]:
    number = 0
    with _opened(path, on_read) as file, io.TextIOWrapper(file, encoding=encoding, newline="\n") as text:
        try:
            for number, line in enumerate(text, start=1):
                # A byte order mark is part of the text where the encoding's name states the byte order.
                yield number, line.removeprefix("\ufeff") if number == 1 else line
        except UnicodeError as error:
            raise DataError(
                f"{path}, after line {number}: a file must be {encoding}, but cannot be read as such ({error}); "
                f"{text_format.encoding_advice}."
            ) from error
