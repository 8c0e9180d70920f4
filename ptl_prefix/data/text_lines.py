"""The lines of a text file, one at a time, whatever its encoding.

In: a path, and how the file is written. Out: numbered lines, split at LF only, as text may hold other characters that
Python treats as line ends, a lone CR among them. A byte order mark names the encoding; without one, files are UTF-8. A
file that is not, or that holds U+0000, is refused.
"""

import codecs
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ptl_prefix.errors import DataError

_MARKS = (
    # UTF-32 first: its mark begins with that of UTF-16.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_UTF_8 = ("utf-8", "utf-8-sig")

OnRead = Callable[[int], None]
"""Called with the number of bytes of a file that were read since the last call."""


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


def _marked_encoding(path: Path) -> str:
    """The encoding that a byte order mark names; UTF-8 without one."""
    with path.open("rb") as file:
        start = file.read(4)
    return next((encoding for mark, encoding in _MARKS if start.startswith(mark)), "utf-8")


def _utf_8_lines(path: Path, text_format: TextFormat, on_read: OnRead) -> Iterator[tuple[int, str]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            on_read(len(line))
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path}, line {number}: a file must be UTF-8, but byte {line[error.start]:#04x} is not "
                    f"(is it Latin-1?); {text_format.encoding_advice}."
                ) from error


def _decoded_lines(path: Path, encoding: str, text_format: TextFormat, on_read: OnRead) -> Iterator[tuple[int, str]]:
    number, position = 0, 0
    with path.open("rb") as file, io.TextIOWrapper(file, encoding=encoding, newline="\n") as text:
        try:
            for number, line in enumerate(text, start=1):
                on_read(file.tell() - position)
                position = file.tell()
                # A byte order mark is part of the text where the encoding's name states the byte order.
                yield number, line.removeprefix("\ufeff") if number == 1 else line
        except UnicodeError as error:
            raise DataError(
                f"{path}, after line {number}: a file must be {encoding}, but cannot be read as such ({error}); "
                f"{text_format.encoding_advice}."
            ) from error
