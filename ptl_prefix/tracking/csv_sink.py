"""The metrics of a run as `metrics.csv`, for spreadsheets and plotting programs.

In: events. Out: one row per logged step, with all values of that step. A metric that appears for the first time adds a
column.
"""

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.artifacts.file_lock import open_unlinked, read_unlinked
from ptl_prefix.tracking.events import RunFacts
from ptl_prefix.tracking.numbers import CURVES, numeric_values


class CsvSink:
    """Writes `metrics.csv` in the run folder."""

    def open(self, facts: RunFacts) -> None:
        """Create the file, or continue it; rows after the step that a run resumes from are removed."""
        self._path = facts.folder.path / "metrics.csv"
        self._last: dict[str, Any] = {}
        self._last_row_at = 0
        kept = []
        if facts.resumed_step is not None:
            kept = [row for row in _rows(self._path) if int(row["step"]) <= facts.resumed_step]
        self._columns = list(kept[0]) if kept else ["step"]
        self._rewrite(kept)

    def write(self, kind: str, *, step: int, **values: Any) -> None:
        """Add numeric values to the row of their step."""
        numbers = numeric_values(values)
        if kind not in CURVES or not numbers:
            return
        is_same_row = self._last.get("step") == step
        self._last = {**(self._last if is_same_row else {}), "step": step, **numbers}
        new = [name for name in numbers if name not in self._columns]
        if new:
            self._columns += new
            rows = _rows(self._path)
            self._rewrite([*(rows[:-1] if is_same_row else rows), self._last])
            return
        with os.fdopen(open_unlinked(self._path, os.O_RDWR), "r+b") as file:
            self._last_row_at = self._last_row_at if is_same_row else file.seek(0, io.SEEK_END)
            file.seek(self._last_row_at)
            file.truncate()
            file.write(self._text([self._last], header=False).encode())

    def close(self, exit_code: int) -> None:
        """Do nothing, because every row is already in the file."""

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        text = self._text(rows, header=True)
        write_atomically(self._path, text, follow_links=False)
        self._last_row_at = len(text.encode()) - (len(self._text(rows[-1:], header=False).encode()))

    def _text(self, rows: list[dict[str, Any]], *, header: bool) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, lineterminator="\n")
        if header:
            writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


def _rows(path: Path) -> list[dict[str, Any]]:
    """The complete rows of an existing file; a killed run may have left an incomplete row."""
    if not path.exists():
        return []
    file = io.StringIO(read_unlinked(path).decode("utf-8"), newline="")
    return [row for row in csv.DictReader(file) if _is_complete(row)]


def _is_complete(row: Mapping[str, Any]) -> bool:
    return None not in row.values() and str(row.get("step")).isdigit()
