"""Differences between runs that make their results incomparable.

In: the runs of one task and backbone, with their metrics. Out: a sentence for each such difference.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ptl_prefix.reporting.compared_run import ComparedRun
from ptl_prefix.reporting.run_metrics import RunMetrics

_REMEDY = "compare them separately"


def find_incompatibilities(runs: Sequence[ComparedRun], by_run: Sequence[RunMetrics]) -> list[str]:
    """Return every reason why the runs cannot share a table.

    Args:
        runs: Runs of one task and backbone.
        by_run: Metrics of each run, in the order of `runs`.
    """
    record = runs[0].record
    table = f"{record.task} on {record.backbone}"
    versions = [run.record.task_version for run in runs]
    weights = [None if run.manifest is None else run.manifest.backbone.weights_fingerprint[:12] for run in runs]
    counts = [of_run.num_examples for of_run in by_run]
    reasons = [
        _mixed(f"Runs of {table} must use the same version of the task", versions, runs, _REMEDY),
        _mixed(f"Runs of {table} must use the same backbone weights", weights, runs, _REMEDY),
        _mixed(
            f"Runs of {table} must use the same decoding settings",
            _decodings(by_run),
            runs,
            "evaluate each run with the same settings: ptl-prefix evaluate run=…",
        ),
        _mixed(
            f"Runs of {table} must be tested on the same number of inputs",
            counts,
            runs,
            "evaluate each run on the full split: ptl-prefix evaluate run=…",
        ),
    ]
    if not any(reasons):  # most of the above imply different inputs, and are more specific
        tests = [hash_test_set(of_run) for of_run in by_run]
        reasons.append(
            _mixed(f"Runs of {table} must be tested on the same inputs and references", tests, runs, _REMEDY)
        )
    return [reason for reason in (*reasons, *_metric_reasons(table, runs, by_run)) if reason]


def _metric_reasons(table: str, runs: Sequence[ComparedRun], by_run: Sequence[RunMetrics]) -> list[str | None]:
    keys = dict.fromkeys(key for of_run in by_run for key in of_run.infos)
    reasons = []
    for key in keys:
        infos = [of_run.infos.get(key) for of_run in by_run]
        meanings = [
            None if info is None else f"scale {info.scale}, {info.direction}, version {info.version}" for info in infos
        ]
        reasons.append(
            _mixed(
                f"`{key}` must have the same scale, direction and version in all runs of {table}",
                meanings,
                runs,
                _REMEDY,
            )
        )
    return reasons


def _mixed(rule: str, values: Sequence[Any], runs: Sequence[ComparedRun], remedy: str) -> str | None:
    """The rule, the values that break it and the remedy, if runs have several values; unknown values are ignored."""
    by_value: defaultdict[Any, list[str]] = defaultdict(list)
    for value, run in zip(values, runs, strict=True):
        if value is not None:
            by_value[value].append(run.folder.shown)
    if len(by_value) < 2:
        return None
    facts = "; ".join(f"{value} in {', '.join(paths)}" for value, paths in by_value.items())
    return f"{rule}, but found {facts}; {remedy}."


def _decodings(by_run: Sequence[RunMetrics]) -> list[str]:
    """For each run, the decoding settings in which runs differ."""
    settings: list[Mapping[str, Any]] = [asdict(of_run.decoding) for of_run in by_run]
    differing = [key for key in settings[0] if len({repr(one[key]) for one in settings}) > 1]
    return [", ".join(f"{key}={one[key]}" for key in differing) for one in settings]


def hash_test_set(of_run: RunMetrics) -> str | None:
    """A short hash of the test inputs and references; `None` if the predictions are not readable."""
    items = [[one.id, *one.references] for one in of_run.predictions()]
    return f"set {hashlib.sha256(json.dumps(sorted(items)).encode()).hexdigest()[:8]}" if items else None
