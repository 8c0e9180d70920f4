"""The numbers of a run as a table: `metrics.csv`, for spreadsheets and plotting programs.

In: events. Out: a row for each logged step, what was measured at the same step beside each other; the header grows when
something is measured for the first time.
"""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.tracking.events import RunFacts
from ptl_prefix.tracking.numbers import CURVES, numeric_values


class CsvSink:
    """Keeps `metrics.csv` in the run's folder."""

    def open(self, facts: RunFacts) -> None:
        """Start the table, or go on with it: what came after the step that a run resumes from is cut off."""
        self._path = facts.folder.path / "metrics.csv"
        self._last: dict[str, Any] = {}
        self._last_row_at = 0
        kept = []
        if facts.resumed_step is not None:
            kept = [row for row in _rows(self._path) if int(row["step"]) <= facts.resumed_step]
        self._columns = list(kept[0]) if kept else ["step"]
        self._write_whole(kept)

    def write(self, kind: str, *, step: int, **values: Any) -> None:
        """Add the numbers to the row of their step."""
        numbers = numeric_values(values)
        if kind not in CURVES or not numbers:
            return
        is_same_row = self._last.get("step") == step
        self._last = {**(self._last if is_same_row else {}), "step": step, **numbers}
        new = [name for name in numbers if name not in self._columns]
        if new:
            self._columns += new
            rows = _rows(self._path)
            self._write_whole([*(rows[:-1] if is_same_row else rows), self._last])
            return
        with self._path.open("r+b") as file:
            self._last_row_at = self._last_row_at if is_same_row else file.seek(0, io.SEEK_END)
            file.seek(self._last_row_at)
            file.truncate()
            file.write(self._text([self._last], header=False).encode())

    def close(self, exit_code: int) -> None:
        """Every row is in the file already."""

    def _write_whole(self, rows: list[dict[str, Any]]) -> None:
        text = self._text(rows, header=True)
        write_atomically(self._path, text)
        self._last_row_at = len(text.encode()) - (len(self._text(rows[-1:], header=False).encode()))

    def _text(self, rows: list[dict[str, Any]], *, header: bool) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, lineterminator="\n")
        if header:
            writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


def _rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a table that was begun. A row that a killed run left torn has no number of columns to speak of."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if _is_whole(row)]


def _is_whole(row: Mapping[str, Any]) -> bool:
    return None not in row.values() and str(row.get("step")).isdigit()
