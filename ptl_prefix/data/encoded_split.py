"""An encoded split on disk, and its reader.

In: rows, a chunk at a time, or the folder of an earlier encoding. Out: `EncodedSplit`, memory-mapped, so that a large
data set needs little memory and the processes of one machine share it.

Each folder is a cache entry. It is written under a temporary name and renamed, whole or not at all, and it is used only
if its hash is right. Two processes that write the same entry at once both succeed, and both use the first one's.
"""

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ptl_prefix.data.collation import EncodedRow, LayerInputs, Teacher

_COLUMNS = pa.schema([("input_ids", pa.list_(pa.int32())), ("num_source_ids", pa.int32()), ("example", pa.int32())])
Numbers = npt.NDArray[np.int32]
_ROWS, _REPORT = "rows.arrow", "report.json"


@dataclass(frozen=True, kw_only=True)
class EncodingReport:
    """Counts of an encoding, for a split or a part of one; reports can be added.

    Args:
        num_examples: Number of examples.
        num_pairs: Number of (source, target) pairs; each one became a row or was dropped.
        num_truncated_source: Number of rows whose source was cut.
        num_truncated_target: Number of rows whose target was cut.
        num_dropped: Number of over-long pairs that were left out.
    """

    num_examples: int = 0
    num_pairs: int = 0
    num_truncated_source: int = 0
    num_truncated_target: int = 0
    num_dropped: int = 0

    def __add__(self, other: "EncodingReport") -> "EncodingReport":
        return EncodingReport(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})


class _Columns(NamedTuple):
    """The columns of some rows, as views of the file.

    Args:
        ids: Ids of the rows, one row after another.
        ends: Where each row's ids begin in `ids`, and where those of the last one end.
        num_source_ids: Number of prompt ids of each row.
        example: Index of each row's example.
    """

    ids: Numbers
    ends: Numbers
    num_source_ids: Numbers
    example: Numbers

    @classmethod
    def of(cls, batch: pa.RecordBatch) -> "_Columns":
        """The columns of a batch. pyarrow's own conversion to numpy would import pandas, which takes a second."""
        rows, *others = (batch.column(name) for name in _COLUMNS.names)
        return cls(_view(rows.values), _view(rows, len(rows) + 1), *(_view(column) for column in others))


def _view(column: pa.Array, length: int | None = None) -> Numbers:
    """The numbers of a column without gaps, or the ends of the lists of one."""
    length = len(column) if length is None else length
    return np.frombuffer(column.buffers()[1] or b"", np.int32, length, 4 * column.offset if length else 0)


def _column(kind: pa.DataType, numbers: Sequence[int] | Numbers, *children: pa.Array, length: int) -> pa.Array:
    """A column of numbers, or of lists that end at these numbers."""
    buffer = pa.py_buffer(np.asarray(numbers, np.int32))
    return pa.Array.from_buffers(kind, length, [None, buffer], children=list(children))


def _joined(parts: Sequence[Numbers]) -> npt.NDArray[np.int64]:
    return np.concatenate([np.empty(0, np.int64), *parts]).astype(np.int64)


class EncodedSplit:
    """The rows of a split, one per (source, target) pair, in the order of its examples.

    Args:
        table: Rows with the columns of `EncodedRow`.
        report: Counts of the encoding.
        teacher: Teacher whose log-probabilities are learned in place of the targets; `None` for none.
        layer_inputs: What a layer reads of each row, if that was computed before; `None` if not.
    """

    def __init__(
        self,
        table: pa.Table,
        report: EncodingReport,
        teacher: Teacher | None = None,
        layer_inputs: LayerInputs | None = None,
    ) -> None:
        self.table = table
        self.report = report
        self.teacher = teacher
        self.layer_inputs = layer_inputs
        self._batches = [_Columns.of(batch) for batch in table.to_batches()]
        self._starts = np.cumsum([0, *(len(batch.example) for batch in self._batches)])
        self.lengths = _joined([np.diff(batch.ends) for batch in self._batches])

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def num_source_ids(self) -> npt.NDArray[np.int64]:
        """The number of prompt ids of each row."""
        return _joined([batch.num_source_ids for batch in self._batches])

    @property
    def examples(self) -> npt.NDArray[np.int64]:
        """The index of each row's example; the rows of one example are neighbours."""
        return _joined([batch.example for batch in self._batches])

    def rows(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> list[EncodedRow]:
        """The rows at `indices`, in that order."""
        rows = [self._row(int(index)) for index in indices]
        if self.layer_inputs is not None:
            for index, row in zip(indices, rows, strict=True):
                row["layer_input"] = self.layer_inputs(int(index))
        return rows

    def _row(self, index: int) -> EncodedRow:
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        batch, place = self._batches[number], index - int(self._starts[number])
        return EncodedRow(
            input_ids=batch.ids[batch.ends[place] : batch.ends[place + 1]].tolist(),
            num_source_ids=int(batch.num_source_ids[place]),
            example=int(batch.example[place]),
        )

    def taught_by(self, teacher: Teacher | None) -> "EncodedSplit":
        """The same rows with a teacher."""
        return EncodedSplit(self.table, self.report, teacher, self.layer_inputs)

    def starting_at(self, layer_inputs: LayerInputs) -> "EncodedSplit":
        """The same rows, each with what a layer reads of it."""
        return EncodedSplit(self.table, self.report, self.teacher, layer_inputs)

    @property
    def ids(self) -> npt.NDArray[np.int32]:
        """The ids of all rows, one row after another."""
        parts = [batch.ids[batch.ends[0] : batch.ends[-1]] for batch in self._batches]
        return np.concatenate([np.empty(0, np.int32), *parts])

    @property
    def num_target_ids(self) -> int:
        """The number of ids that are trained on: those of the targets and their ends."""
        return int(self.lengths.sum() - self.num_source_ids.sum())


def write_encoded(folder: Path, chunks: Iterable[tuple[list[EncodedRow], EncodingReport]]) -> EncodedSplit:
    """Write rows into a folder, and open it. If another process was first, its rows are opened.

    Raises:
        OSError: The folder cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        entry = Path(temporary) / "entry"
        entry.mkdir()
        report = _write_rows(entry / _ROWS, chunks)
        record = {"report": asdict(report), "sha256": _seal(entry / _ROWS, report)}
        (entry / _REPORT).write_text(json.dumps(record), encoding="utf-8")
        for attempt in range(2):
            try:
                entry.rename(folder)
                break
            except OSError:
                # The folder exists: another process was first, or reading finds a damaged entry and removes it.
                if (stored := read_encoded(folder)) is not None:
                    return stored
                if attempt:
                    raise
    return _open(folder, report)


def read_encoded(folder: Path) -> EncodedSplit | None:
    """Open the entry in a folder; `None` if there is none, or a damaged one, which is removed."""
    if not folder.is_dir():
        return None
    try:
        record = json.loads((folder / _REPORT).read_text(encoding="utf-8"))
        report = EncodingReport(**record["report"])
        if record["sha256"] == _seal(folder / _ROWS, report):
            return _open(folder, report)
    except (OSError, ValueError, KeyError, TypeError):
        pass  # An entry that cannot be read is treated as damaged.
    with contextlib.suppress(OSError), tempfile.TemporaryDirectory(dir=folder.parent, prefix=".damaged.") as grave:
        folder.rename(Path(grave) / "entry")  # In one step, so that no process sees a part of it.
    return None


def _open(folder: Path, report: EncodingReport) -> EncodedSplit:
    # Memory-mapped: the rows stay on the disk, and the processes of a machine share them.
    with pa.ipc.open_stream(pa.memory_map(str(folder / _ROWS))) as stream:
        return EncodedSplit(stream.read_all(), report)


def _write_rows(path: Path, chunks: Iterable[tuple[list[EncodedRow], EncodingReport]]) -> EncodingReport:
    """Write the rows chunk by chunk, so that they are never all in memory, and add up the reports."""
    total = EncodingReport()
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, _COLUMNS) as stream:
        for rows, report in chunks:
            total += report
            if rows:
                stream.write_batch(_batch(rows))
    return total


def _batch(rows: Sequence[EncodedRow]) -> pa.RecordBatch:
    """Rows in Arrow's form, made of buffers: `from_pylist` would import pandas."""
    flat = np.concatenate([np.asarray(row["input_ids"], np.int32) for row in rows])
    ids = _column(pa.int32(), flat, length=len(flat))
    ends = np.cumsum([0, *(len(row["input_ids"]) for row in rows)])
    columns = [
        _column(_COLUMNS.field("input_ids").type, ends, ids, length=len(rows)),
        _column(pa.int32(), [row["num_source_ids"] for row in rows], length=len(rows)),
        _column(pa.int32(), [row["example"] for row in rows], length=len(rows)),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=_COLUMNS)


def _seal(rows: Path, report: EncodingReport) -> str:
    """The hash of an entry: of its rows and its report."""
    with rows.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(repr(report).encode())
    return digest.hexdigest()
