"""One statement of the advice, with the rows and the test that it stands on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ptl_prefix.reporting.advice.paired_tests import PairedTest
from ptl_prefix.reporting.comparison_record import RowRecord

Kind = Literal["recommended", "difference", "no_evidence", "untested", "fact"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One statement.

    Args:
        kind: `recommended`: a row to take; `difference`: a claimed difference, or several; `no_evidence`: a test that
            does not tell two rows apart; `untested`; or `fact`: a cost, or what the comparison lacks.
        text: Whole sentences; each names its rows by their numbers.
        rows: Rows that the text names.
        tests: Tests whose numbers the text states.
    """

    kind: Kind
    text: str
    rows: tuple[RowRecord, ...] = ()
    tests: tuple[PairedTest, ...] = ()


def named(row: RowRecord) -> str:
    """A row as a sentence names it: its number and its label."""
    return f"#{row.number} ({row.label})"


def listed(parts: Sequence[str]) -> str:
    """Join parts of a sentence with commas and `and`."""
    return ", ".join(parts[:-1]) + f" and {parts[-1]}" if len(parts) > 1 else "".join(parts)
