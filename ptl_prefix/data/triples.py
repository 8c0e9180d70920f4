"""Subject-property-object triples, the input of several data sets.

In: a cell of a row. Out: `Triple`s, or an error with file and line; and their text, linearised as in the code of Li &
Liang (2021).
"""

from collections.abc import Sequence
from typing import Any

from ptl_prefix.errors import DataError

Triple = tuple[str, str, str]
"""Subject, property, object."""


def parse_triples(cell: Any, place: str) -> list[Triple]:
    """The triples of a cell.

    Raises:
        DataError: The cell is not a list of at least one [subject, property, object].
    """
    rows = cell if isinstance(cell, list) else []
    if rows and all(isinstance(row, list) and len(row) == 3 and all(isinstance(x, str) for x in row) for row in rows):
        return [(row[0].strip(), row[1].strip(), row[2].strip()) for row in rows]
    raise DataError(
        f"{place}: triples must be a list of [subject, property, object], not empty, but are {cell!r:.80}; fix them."
    )


def linearise(triples: Sequence[Triple]) -> str:
    """Triples as text: `Aarhus : leaderName : Jacob_Bundsgaard | Aarhus : country : Denmark`."""
    return " | ".join(" : ".join(triple) for triple in triples)
