"""Rows of JSON and JSON lines files.

In: a path. Out: for each row, its place for messages, and its JSON object.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ptl_prefix.artifacts.json_document import DocumentError, parse_json, parse_object, shortened
from ptl_prefix.data.text_lines import OnRead, TextFormat, numbered_lines, unreported
from ptl_prefix.errors import DataError


def read_json_lines(
    path: Path, text_format: TextFormat, on_read: OnRead = unreported
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a file with one JSON object a line; empty lines are left out.

    Raises:
        DataError: A line is no such object; the message names it.
    """
    for number, line in numbered_lines(path, text_format, on_read):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            cells = parse_object(line)
        except DocumentError as error:
            raise DataError(f"{place}: each line must be one JSON object, but this one {error}; correct it.") from error
        yield place, cells


def read_json(
    path: Path, text_format: TextFormat, on_read: OnRead = unreported
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a file that is one JSON array of objects, or one object that holds such an array and nothing else.

    The whole file is in memory meanwhile.

    Raises:
        DataError: The file is no such array.
    """
    try:
        content = parse_json("".join(line for _, line in numbered_lines(path, text_format)), finite=False)
    except DocumentError as error:
        raise DataError(
            f"{path} must be one array of JSON objects, but {error}; correct it, or name it .jsonl if its lines are."
        ) from error
    if isinstance(content, dict) and len(content) == 1:
        (content,) = content.values()
    if not isinstance(content, list):
        raise DataError(f"{path} must be one array of JSON objects, but is {shortened(content)}; convert it.")
    for number, cells in enumerate(content, start=1):
        on_read(path.stat().st_size // len(content))
        place = f"{path}, row {number}"
        if not isinstance(cells, dict):
            raise DataError(f"{place}: each row must be a JSON object, but is {shortened(cells)}; correct it.")
        yield place, cells
