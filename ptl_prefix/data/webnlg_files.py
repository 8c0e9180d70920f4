"""Readers of the formats in which WebNLG is published.

In: the challenge's XML, in any number of files below a folder; the JSON of the paper's code, which is
`{"entries": [{"1": {...}}, ...]}`; JSON lines with `category, triples, lexs, comments`; or rows of the hub's copy.
Out: `Entry`s.
"""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptl_prefix.data.file_rows import FileRow, read_rows
from ptl_prefix.data.task import Split
from ptl_prefix.data.text_lines import OnRead, unreported
from ptl_prefix.data.triples import Triple, parse_triples
from ptl_prefix.errors import DataError

_SPLIT_WORDS: dict[Split, str] = {"train": "train", "validation": "dev", "test": "test"}


@dataclass(frozen=True)
class Entry:
    """One entry of WebNLG.

    Args:
        category: Category in DBpedia, such as `Airport`.
        triples: Facts that a text states.
        texts: Reference texts, each with its comment (`good`, `toFix`).
    """

    category: str
    triples: list[Triple]
    texts: list[tuple[str, str]]


def xml_files(folder: Path, split: Split) -> list[Path]:
    """The XML files of a split: those whose folder is named after the split, else those whose own name has it."""
    found = []
    for path in sorted(folder.rglob("*.xml")):
        *folders, name = path.relative_to(folder).parts
        words = [word for word in folders if word in _SPLIT_WORDS.values()]
        words = words or re.findall(r"(?<![a-z])(?:train|dev|test)(?=data|[^a-z])", name.lower())
        if words[:1] == [_SPLIT_WORDS[split]]:
            found.append(path)
    return found


def read_entries(path: Path, on_read: OnRead = unreported) -> Iterator[FileRow]:
    """The rows of one file, for `parse_entry`."""
    return _read_xml(path, on_read) if path.suffix == ".xml" else read_rows(path, on_read=on_read)


def parse_entry(row: FileRow) -> Entry:
    """The entry of a row, in any of the formats.

    Raises:
        DataError: The row has none of the formats.
    """
    cells = row.cells
    if len(cells) == 1 and isinstance(inner := next(iter(cells.values())), dict):
        cells = inner  # The paper's JSON names each entry by its number.
    try:
        category, rows, texts = _parts(cells)
        category = category.strip()
        pairs = [(text.strip(), comment) for text, comment in texts if text.strip()]
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise DataError(
            f"{row.place}: an entry must have a category, triples, and texts with their comments, but it has not "
            f"({type(error).__name__}: {error}); the module `webnlg_files` describes the formats."
        ) from error
    return Entry(category, parse_triples(rows, row.place), pairs)


def _parts(cells: dict[str, Any]) -> tuple[str, list[Any], list[tuple[str, str]]]:
    """Category, triples, and texts with comments, from any of the formats."""
    if "lexs" in cells:
        return cells["category"], cells["triples"], list(zip(cells["lexs"], cells["comments"], strict=True))
    if "lexicalisations" in cells:
        rows = [[row["subject"], row["property"], row["object"]] for row in cells["modifiedtripleset"]]
        return cells["category"], rows, [(text["lex"], text["comment"]) for text in cells["lexicalisations"]]
    rows = [row.split(" | ") for row in cells["modified_triple_sets"]["mtriple_set"][0]]
    return cells["category"], rows, list(zip(cells["lex"]["text"], cells["lex"]["comment"], strict=True))


def _read_xml(path: Path, on_read: OnRead) -> Iterator[FileRow]:
    """The entries of an XML file, with the keys of the JSON lines."""
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, OSError) as error:
        raise DataError(f"{path} must be XML, but {error}; download it again.") from error
    on_read(path.stat().st_size)
    for number, entry in enumerate(root.iter("entry"), start=1):
        texts = entry.findall("lex")
        cells = {
            "category": entry.get("category"),
            "triples": [(row.text or "").split(" | ") for row in entry.findall("modifiedtripleset/mtriple")],
            "lexs": [text.text or "" for text in texts],
            "comments": [text.get("comment", "") for text in texts],
        }
        yield FileRow(f"{path}, entry {number} ({entry.get('eid')})", cells)
