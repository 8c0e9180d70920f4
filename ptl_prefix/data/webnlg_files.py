"""The forms in which WebNLG is published, read into one.

In: the challenge's XML, in many files anywhere below a folder; the JSON of the paper's code, which is
`{"entries": [{"1": {...}}, ...]}`; records with `category, triples, lexs, comments`, one JSON object a line; or the
hub's records. Out: `Entry`s.
"""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptl_prefix.data.file_rows import FileRow, read_rows
from ptl_prefix.data.task import Split
from ptl_prefix.data.triples import Triple, triples_of
from ptl_prefix.errors import DataError

_SPLIT_WORDS: dict[Split, str] = {"train": "train", "validation": "dev", "test": "test"}


@dataclass(frozen=True)
class Entry:
    """One entry.

    Args:
        category: Of DBpedia, `Airport`.
        triples: What is to be said.
        texts: Ways to say it, each with its comment (`good`, `toFix`).
    """

    category: str
    triples: list[Triple]
    texts: list[tuple[str, str]]


def xml_files(folder: Path, split: Split) -> list[Path]:
    """The XML files of a split below a folder: those in a folder named after it, or else named after it themselves."""
    found = []
    for path in sorted(folder.rglob("*.xml")):
        *folders, name = path.relative_to(folder).parts
        words = [word for word in folders if word in _SPLIT_WORDS.values()]
        words = words or re.findall(r"(?<![a-z])(?:train|dev|test)(?=data|[^a-z])", name.lower())
        if words[:1] == [_SPLIT_WORDS[split]]:
            found.append(path)
    return found


def read_entries(path: Path) -> Iterator[FileRow]:
    """The records of one file, each of which `entry_of` understands."""
    return _read_xml(path) if path.suffix == ".xml" else read_rows(path)


def entry_of(record: FileRow) -> Entry:
    """The entry that a record holds, in any of the forms.

    Raises:
        DataError: It holds none.
    """
    cells = record.cells
    if len(cells) == 1 and isinstance(inner := next(iter(cells.values())), dict):
        cells = inner  # The paper's JSON names each entry by its number.
    try:
        category, rows, texts = _parts(cells)
        category = category.strip()
        pairs = [(text.strip(), comment) for text, comment in texts if text.strip()]
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise DataError(
            f"{record.place}: an entry must have a category, triples, and texts with their comments, but it has not "
            f"({type(error).__name__}: {error}); see the module `webnlg_files` for the forms."
        ) from error
    return Entry(category, triples_of(rows, record.place), pairs)


def _parts(cells: dict[str, Any]) -> tuple[str, list[Any], list[tuple[str, str]]]:
    """Category, triples and texts with comments, wherever the form has them."""
    if "lexs" in cells:
        return cells["category"], cells["triples"], list(zip(cells["lexs"], cells["comments"], strict=True))
    if "lexicalisations" in cells:
        rows = [[row["subject"], row["property"], row["object"]] for row in cells["modifiedtripleset"]]
        return cells["category"], rows, [(text["lex"], text["comment"]) for text in cells["lexicalisations"]]
    rows = [row.split(" | ") for row in cells["modified_triple_sets"]["mtriple_set"][0]]
    return cells["category"], rows, list(zip(cells["lex"]["text"], cells["lex"]["comment"], strict=True))


def _read_xml(path: Path) -> Iterator[FileRow]:
    """The entries of an XML file, with the keys of the JSON lines."""
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, OSError) as error:
        raise DataError(f"{path} must be XML, but {error}; fetch it anew.") from error
    for number, entry in enumerate(root.iter("entry"), start=1):
        texts = entry.findall("lex")
        cells = {
            "category": entry.get("category"),
            "triples": [(row.text or "").split(" | ") for row in entry.findall("modifiedtripleset/mtriple")],
            "lexs": [text.text or "" for text in texts],
            "comments": [text.get("comment", "") for text in texts],
        }
        yield FileRow(f"{path}, entry {number} ({entry.get('eid')})", cells)
