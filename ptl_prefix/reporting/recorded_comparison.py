"""Turns a comparison into its record.

In: a `Comparison`, and the command that reproduces each row. Out: a `ComparisonRecord`, which holds no path that must
exist for it to be read.
"""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from ptl_prefix.reporting.compared_run import ComparedRun
from ptl_prefix.reporting.comparison import Comparison
from ptl_prefix.reporting.comparison_record import ComparisonRecord, ExcludedRecord, RowRecord, SeedRecord, TableRecord
from ptl_prefix.reporting.differing_settings import influential_settings
from ptl_prefix.reporting.incompatibilities import hash_test_set
from ptl_prefix.reporting.run_metrics import RunMetrics
from ptl_prefix.reporting.table import Row, Table
from ptl_prefix.reporting.text_tables import Commands


def record_comparison(comparison: Comparison, commands: Commands) -> ComparisonRecord:
    """Record a comparison.

    Args:
        comparison: Comparison.
        commands: Command that reproduces each row.
    """
    return ComparisonRecord(
        package_version=version("ptl-prefix"),
        created=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        tables=tuple(_table(table, commands) for table in comparison.tables),
        excluded=tuple(ExcludedRecord(path=str(run.path), reason=run.reason) for run in comparison.excluded),
    )


def _table(table: Table, commands: Commands) -> TableRecord:
    runs = [run for row in table.rows for run in row.runs]
    of_runs = [of_run for row in table.rows for of_run in row.run_metrics]
    identities = [run.manifest.backbone for run in runs if run.manifest is not None]
    return TableRecord(
        task=table.task,
        task_version=runs[0].record.task_version,
        backbone=table.backbone,
        backbone_parameters=max(run.record.parameters.backbone for run in runs),
        weights=next((identity.weights_fingerprint for identity in identities), None),
        tokenizer=next((identity.tokenizer_fingerprint for identity in identities), None),
        decoding=of_runs[0].decoding,
        num_inputs=next((one.num_examples for one in of_runs if one.num_examples is not None), None),
        inputs=next((found for one in of_runs if (found := hash_test_set(one)) is not None), None),
        main=table.main,
        metrics=dict(table.metrics),
        bare={key: value for key, value in table.bare.items() if abs(value) <= _LARGEST},
        caveats=table.caveats,
        rows=tuple(_row(row, commands[table.task, table.backbone, row.number]) for row in table.rows),
    )


_LARGEST = 1e100
"""Larger numbers are no measurements; in a run's other metrics they exclude the run."""


def _row(row: Row, command: str) -> RowRecord:
    return RowRecord(
        number=row.number,
        method=row.method,
        settings=_json_values(row.settings),
        config=_json_values(influential_settings(row.runs[0].record)),
        runs=tuple(_seed(run, of_run) for run, of_run in zip(row.runs, row.run_metrics, strict=True)),
        summaries=dict(row.summaries),
        verdicts=dict(row.verdicts),
        cost=row.cost,
        command=command,
    )


def _seed(run: ComparedRun, of_run: RunMetrics) -> SeedRecord:
    seed, subset_seed = run.seed
    cost, parameters = run.record.cost, run.record.parameters
    return SeedRecord(
        path=run.folder.shown,
        seed=seed,
        subset_seed=subset_seed,
        metrics=dict(of_run.metrics),
        num_trainable=parameters.trained,
        num_stored=parameters.stored,
        bundle_bytes=run.bundle_bytes,
        train_s=cost.train_s,
        steps=cost.steps,
        tokens=cost.tokens,
        tokens_per_s=cost.tokens_per_s,
        peak_memory_bytes=cost.peak_memory_bytes,
        environment=_json_values(run.record.environment),
    )


def _json_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values that JSON can hold: the config of a run that died may have a date or a NaN of YAML, which become text."""
    return {str(key): _json_value(value) for key, value in values.items()}


def _json_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _json_values(value)
    if isinstance(value, list | tuple):
        return [_json_value(part) for part in value]
    is_plain = (
        value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value))
    )
    return value if is_plain else str(value)
