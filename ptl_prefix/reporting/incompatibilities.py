"""What may not stand in one table, and why.

In: the runs of one task and backbone, with their numbers. Out: a sentence for everything that differs and must not.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ptl_prefix.reporting.compared_run import ComparedRun
from ptl_prefix.reporting.run_metrics import RunMetrics

_WAY_OUT = "compare them apart"


def find_incompatibilities(runs: Sequence[ComparedRun], numbers: Sequence[RunMetrics]) -> list[str]:
    """Every reason why these runs cannot be one table; none if they can."""
    record = runs[0].record
    table = f"{record.task} on {record.backbone}"
    versions = [run.record.task_version for run in runs]
    weights = [None if run.manifest is None else run.manifest.backbone.weights_fingerprint[:12] for run in runs]
    counts = [number.num_examples for number in numbers]
    reasons = [
        _mixed(f"Runs of {table} must be of one version of the task", versions, runs, _WAY_OUT),
        _mixed(f"Runs of {table} must have one backbone's weights", weights, runs, _WAY_OUT),
        _mixed(
            f"Runs of {table} must be decoded alike",
            _decodings(numbers),
            runs,
            "evaluate them alike: ptl-prefix evaluate run=…",
        ),
        _mixed(
            f"Runs of {table} must be tested on as many inputs",
            counts,
            runs,
            "evaluate the whole split of each: ptl-prefix evaluate run=…",
        ),
    ]
    if not any(reasons):  # other inputs follow from most of the above, and say less
        tests = [_test_set(number) for number in numbers]
        reasons.append(
            _mixed(f"Runs of {table} must be tested on the same inputs and references", tests, runs, _WAY_OUT)
        )
    return [reason for reason in (*reasons, *_metric_reasons(table, runs, numbers)) if reason]


def _metric_reasons(table: str, runs: Sequence[ComparedRun], numbers: Sequence[RunMetrics]) -> list[str | None]:
    keys = dict.fromkeys(key for number in numbers for key in number.infos)
    reasons = []
    for key in keys:
        infos = [number.infos.get(key) for number in numbers]
        meanings = [
            None if info is None else f"scale {info.scale}, {info.direction}, version {info.version}" for info in infos
        ]
        reasons.append(_mixed(f"`{key}` must mean the same in all runs of {table}", meanings, runs, _WAY_OUT))
    return reasons


def _mixed(law: str, values: Sequence[Any], runs: Sequence[ComparedRun], way_out: str) -> str | None:
    """The law and who breaks it, if there are several values; what is not known breaks no law."""
    by_value: defaultdict[Any, list[str]] = defaultdict(list)
    for value, run in zip(values, runs, strict=True):
        if value is not None:
            by_value[value].append(str(run.folder.path))
    if len(by_value) < 2:
        return None
    facts = "; ".join(f"{value} in {', '.join(paths)}" for value, paths in by_value.items())
    return f"{law}, but there is {facts}; {way_out}."


def _decodings(numbers: Sequence[RunMetrics]) -> list[str]:
    """Each decoding, by the settings in which they differ."""
    settings: list[Mapping[str, Any]] = [asdict(number.decoding) for number in numbers]
    differing = [key for key in settings[0] if len({repr(one[key]) for one in settings}) > 1]
    return [", ".join(f"{key}={one[key]}" for key in differing) for one in settings]


def _test_set(number: RunMetrics) -> str | None:
    """What the outputs are measured against, in short; `None` where the outputs cannot be read."""
    items = [[one.id, *one.references] for one in number.predictions()]
    return f"set {hashlib.sha256(json.dumps(sorted(items)).encode()).hexdigest()[:8]}" if items else None
