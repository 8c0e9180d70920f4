"""Numbers that were measured say where they are from, and the README stays short.

In: the text of a page. Out: sentences about tables without a source, and the README's size.
"""

import re
from collections.abc import Iterator, Sequence

MOST_LINES = 230
MOST_WORDS = 2_000
_NEAR = 6
"""Lines before or after a table in which its source must stand."""

_NUMBER = r"\d[\d,]*\.\d+"
_MEASURED = re.compile(rf"[*~≈ ]*{_NUMBER}(?:[* ]*(?:±|to|–|-) *{_NUMBER})? *(?:[%×≈*↑↓ ]|[a-zA-Z]+(?:/[a-z]+)?)*")
"""A cell that is a decimal number, with its spread and its unit if it has them; not one that mentions a version."""

_SOURCE = re.compile(
    r"LOG\.md|`(?:ptl-prefix|make|python|torchrun) [^`]*`|^\$ |^```(?:console|python)|`LOG`|experiment="
)


def tables_without_source(text: str) -> list[str]:
    """Every table with a measured number beside which neither a command nor an entry of the log is named."""
    lines = text.splitlines()
    return [
        f"line {start + 1}: a table with measured numbers must name the command that prints them, or an entry of "
        f"LOG.md, within {_NEAR} lines"
        for start, end in _tables(lines)
        if any(_MEASURED.fullmatch(cell.strip()) for line in lines[start:end] for cell in _cells(line))
        and not any(_SOURCE.search(line) for line in lines[max(0, start - _NEAR) : end + _NEAR])
    ]


def too_long(text: str) -> list[str]:
    """By how much a text exceeds what a reader of a README takes in, prose and code counted alike."""
    counted = {"lines": (len(text.splitlines()), MOST_LINES), "words": (len(text.split()), MOST_WORDS)}
    return [
        f"must have at most {most} {name}, but has {count}" for name, (count, most) in counted.items() if count > most
    ]


def _tables(lines: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Where tables begin and end, those inside of blocks left out."""
    start, is_code = None, False
    for number, line in enumerate([*lines, ""]):
        is_code ^= line.lstrip(" >").startswith(("```", "~~~"))
        is_row = line.lstrip(" >").startswith("|") and not is_code
        if is_row and start is None:
            start = number
        elif not is_row and start is not None:
            yield start, number
            start = None


def _cells(line: str) -> list[str]:
    """The cells of a row without code and links, which hold versions and addresses."""
    return re.sub(r"`[^`]*`|\]\([^)]*\)|arXiv:\S+", "", line).split("|")
