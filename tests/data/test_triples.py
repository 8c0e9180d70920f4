"""Facts as triples."""

from typing import Any

import pytest

from ptl_prefix.data.triples import linearise, parse_triples
from ptl_prefix.errors import DataError


def test_triples_are_written_as_in_the_papers_code() -> None:
    triples = parse_triples([["Reed Hall ", "opened", "1921"], ["Reed Hall", "in", "Oldport"]], "here")

    assert linearise(triples) == "Reed Hall : opened : 1921 | Reed Hall : in : Oldport"


@pytest.mark.parametrize(
    "cell", [None, [], "a | b | c", [["a", "b"]], [["a", "b", 3]], [["a", "b", "c", "d"]], {"a": 1}]
)
def test_a_cell_without_triples_is_named_with_its_place(cell: Any) -> None:
    with pytest.raises(DataError, match=r"here: triples must be a list of \[subject, property, object\], not empty"):
        parse_triples(cell, "here")
