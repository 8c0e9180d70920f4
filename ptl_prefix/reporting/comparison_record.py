"""A comparison as one JSON file: `comparison.json`.

In: a `ComparisonRecord`. Out: the same record, from which every table of the comparison can be written again without
the runs. Reading refuses another version, unknown keys, wrong types, and rows that contradict themselves.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Le
from pydantic import ConfigDict

from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.artifacts.document_file import DocumentFile
from ptl_prefix.artifacts.json_document import STRICT
from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.errors import ComparisonError
from ptl_prefix.reporting.compared_run import ExcludedRun
from ptl_prefix.reporting.statistics import Summary, Verdict, summarize
from ptl_prefix.reporting.table import Row, RowCost, RowText, Table

SCHEMA_VERSION = 1
COMPARISON_FILE = "comparison.json"

_ADVICE = "compare the runs again: ptl-prefix compare RUN…"
_ROUNDING = 1e-9

Count = Annotated[int, Ge(0), Le(2**63 - 1)]
Amount = Annotated[float, Ge(0), Le(1e100)]
Value = Annotated[float, Ge(-1e100), Le(1e100)]


@dataclass(frozen=True, kw_only=True)
class SeedRecord:
    """One run of a row.

    Args:
        path: Run folder, as it was given to `compare`.
        seed: Seed of initialisation, batch order and dropout.
        subset_seed: Seed of the subset of the training data; `None` if the run is trained on all of it.
        metrics: Values by `split/name`, as the tables have them.
        num_trainable: Number of trainable parameters.
        num_stored: Number of parameters in the bundle.
        bundle_bytes: Size of the bundle; `None` if the run has none.
        train_s: Seconds of training.
        steps: Optimizer steps.
        tokens: Tokens that were trained on.
        tokens_per_s: Tokens per second of training.
        peak_memory_bytes: Peak memory of training; `None` if it was not measured.
        environment: Machine, software and commit, as the run's record has them.
    """

    path: str
    seed: int
    subset_seed: int | None
    metrics: dict[str, Value]
    num_trainable: Count
    num_stored: Count
    bundle_bytes: Count | None
    train_s: Amount
    steps: Count
    tokens: Count
    tokens_per_s: Amount
    peak_memory_bytes: Count | None
    environment: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class RowRecord(RowText):
    """A method with its settings, over its seeds.

    Args:
        number: Rank in the table, from 1.
        method: Name of the method.
        settings: Settings in which this row differs from others, by dotted config key.
        config: All settings that may influence the result, by dotted config key; seeds are not among them.
        runs: One run per seed.
        summaries: Mean and interval over seeds, by metric.
        verdicts: Comparison with the best row, by metric.
        cost: Cost of the row.
        command: Command that trains the row again; a shell comment where there is none.
    """

    number: Annotated[int, Ge(1)]
    method: str
    settings: dict[str, Any]
    config: dict[str, Any]
    runs: tuple[SeedRecord, ...]
    summaries: dict[str, Summary]
    verdicts: dict[str, Verdict]
    cost: RowCost
    command: str

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the runs."""
        return tuple(run.seed for run in self.runs)

    @property
    def paths(self) -> tuple[str, ...]:
        """The folders of the runs."""
        return tuple(run.path for run in self.runs)


@dataclass(frozen=True, kw_only=True)
class TableRecord:
    """Comparable runs of one task and backbone.

    Args:
        task: Name of the task.
        task_version: Version of the task.
        backbone: Name of the backbone.
        backbone_parameters: Number of parameters of the frozen backbone.
        weights: Fingerprint of the backbone's weights; `None` if no run has a bundle.
        tokenizer: Fingerprint of its tokenizer; `None` if no run has a bundle.
        decoding: Decoding settings of the test outputs.
        num_inputs: Number of test inputs; `None` if unknown.
        inputs: Hash of the test inputs and references; `None` if no predictions are readable.
        main: Metric that rows are sorted by.
        metrics: Scale and direction of each metric, by `split/name`, in the order of the columns.
        bare: Metrics of the bare backbone.
        caveats: Sentences that qualify the results.
        rows: Rows, best by the main metric first.
    """

    task: str
    task_version: str
    backbone: str
    backbone_parameters: Count
    weights: str | None
    tokenizer: str | None
    decoding: Decoding
    num_inputs: Count | None
    inputs: str | None
    main: str
    metrics: dict[str, MetricInfo]
    bare: dict[str, Value]
    caveats: tuple[str, ...]
    rows: tuple[RowRecord, ...]


@dataclass(frozen=True, kw_only=True)
class ExcludedRecord:
    """A run that is in no table.

    Args:
        path: Run folder.
        reason: Predicate of a sentence whose subject is the path.
    """

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ComparisonRecord:
    """A whole comparison.

    Args:
        schema_version: Version of this record's format.
        package_version: Version of the package that compared the runs.
        created: Time of the comparison, in UTC.
        tables: Tables, by task and backbone.
        excluded: Runs that were found and are in no table.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    schema_version: int = SCHEMA_VERSION
    package_version: str
    created: str
    tables: tuple[TableRecord, ...]
    excluded: tuple[ExcludedRecord, ...]


AnyRow = Row | RowRecord
"""A row of runs that were read, or of a comparison's file."""
AnyTable = Table | TableRecord
"""A table of runs that were read, or of a comparison's file."""
AnyExcluded = ExcludedRun | ExcludedRecord

_FILE = DocumentFile(
    kind=ComparisonRecord,
    version=SCHEMA_VERSION,
    max_bytes=256 * 2**20,
    name="A comparison's record",
    error=ComparisonError,
    write_advice="leave the run out.",
    read_advice=f"{_ADVICE}.",
)
write_comparison_record = _FILE.write


def read_comparison_record(path: str | Path) -> ComparisonRecord:
    """Read a `comparison.json`.

    Raises:
        ComparisonError: It is missing, damaged, of another version, or contradicts itself.
    """
    record = _FILE.read(path)
    fact = next(_contradictions(record), None)
    if fact is not None:
        raise ComparisonError(f"A comparison's record must agree with itself, but in {path} {fact}; {_ADVICE}.")
    return record


def _contradictions(record: ComparisonRecord) -> Iterator[str]:
    names = [(table.task, table.backbone) for table in record.tables]
    if not names or len(set(names)) < len(names):
        yield "there is no table" if not names else "two tables are of the same task and backbone"
    for table in record.tables:
        where = f"the table of {table.task} on {table.backbone}"
        if [row.number for row in table.rows] != list(range(1, len(table.rows) + 1)) or not table.rows:
            yield f"{where} has rows that are not numbered from 1"
        if table.main not in table.metrics:
            yield f"{where} is sorted by {table.main}, which is none of its metrics"
        for row in table.rows:
            yield from (f"{where}, row {row.number}, {fact}" for fact in _row_contradictions(row, table))


def _row_contradictions(row: RowRecord, table: TableRecord) -> Iterator[str]:
    seeds = [(run.seed, run.subset_seed) for run in row.runs]
    if not seeds or len(set(seeds)) < len(seeds):
        yield "has no run" if not seeds else "has two runs of one seed"
    measured = {name for run in row.runs for name in run.metrics}
    if set(row.summaries) != measured or set(row.verdicts) != measured:
        yield "has other metrics than its runs"
    if unknown := sorted(measured - set(table.metrics)):
        yield f"has the metric {unknown[0]}, which the table does not describe"
    for name, summary in row.summaries.items():
        values = [run.metrics[name] for run in row.runs if name in run.metrics]
        if values and not _agree(summary, summarize(values)):
            yield f"has a mean or interval of {name} that is not that of its runs"


def _agree(one: Summary, other: Summary) -> bool:
    """Whether two summaries are equal up to rounding, which differs between machines."""
    if one.count != other.count or (one.interval is None) != (other.interval is None):
        return False
    numbers = zip((one.mean, *(one.interval or ())), (other.mean, *(other.interval or ())), strict=True)
    scale = max(map(abs, (other.mean, *(other.interval or ()))))
    return all(math.isclose(mine, own, rel_tol=_ROUNDING, abs_tol=_ROUNDING * scale) for mine, own in numbers)
