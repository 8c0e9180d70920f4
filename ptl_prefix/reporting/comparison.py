"""Runs become tables: one for each task and backbone, one row for each method and its settings, seeds taken together.

In: runs. Out: a `Comparison`; or `ComparisonError` where what would stand side by side does not mean the same.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ptl_prefix.artifacts.run_folder import CONFIRM
from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.errors import ComparisonError
from ptl_prefix.reporting.caveats import collect_caveats
from ptl_prefix.reporting.compared_run import ComparedRun, ExcludedRun
from ptl_prefix.reporting.differing_settings import differing_settings
from ptl_prefix.reporting.incompatibilities import find_incompatibilities
from ptl_prefix.reporting.run_metrics import RunMetrics, TableMetrics, select_metrics
from ptl_prefix.reporting.run_state import main_metric
from ptl_prefix.reporting.statistics import Summary, Verdict, compare_with_best, summarize
from ptl_prefix.reporting.table import Row, Table


@dataclass(frozen=True)
class Comparison:
    """All tables, and what is in none."""

    tables: tuple[Table, ...]
    excluded: tuple[ExcludedRun, ...]


def compare(
    runs: Sequence[ComparedRun], excluded: Sequence[ExcludedRun] = (), *, metric: str | None = None
) -> Comparison:
    """The tables of some runs.

    Args:
        runs: What is compared.
        excluded: What was found, too, but cannot be.
        metric: What rows are ordered by; `None`: each task's own.

    Raises:
        ComparisonError: With everything that may not stand side by side.
    """
    groups: defaultdict[tuple[str, str], list[ComparedRun]] = defaultdict(list)
    for run in runs:
        groups[run.record.task, run.record.backbone].append(run)
    if not groups:
        why = "".join(f"\n  - {run.path} {run.reason}" for run in excluded)
        raise ComparisonError(f"A comparison needs a finished run, but has none; train first.{why}")
    numbers = {names: select_metrics(group) for names, group in groups.items()}
    reasons = [
        reason for names, group in groups.items() for reason in find_incompatibilities(group, numbers[names].by_run)
    ]
    unknown = [] if metric is None else [names for names in groups if metric not in _infos(numbers[names].by_run)]
    for task, backbone in unknown:
        known = ", ".join(_infos(numbers[task, backbone].by_run))
        reasons.append(f"`metric` must be one of {task} on {backbone} ({known}), but is {metric}.")
    if reasons:
        raise ComparisonError("\n".join(reasons))
    repeated: list[ExcludedRun] = []
    tables = [_table(group, numbers[names], metric, repeated) for names, group in sorted(groups.items())]
    return Comparison(tuple(tables), (*excluded, *repeated))


def _table(runs: Sequence[ComparedRun], found: TableMetrics, metric: str | None, repeated: list[ExcludedRun]) -> Table:
    numbers = dict(zip(runs, found.by_run, strict=True))
    infos = _infos(found.by_run)
    if not infos:
        places = ", ".join(str(run.folder.path) for run in runs[:3])
        raise ComparisonError(
            f"A comparison needs a number, but none of these runs got as far as one: {places}; leave them out."
        )
    main = metric or main_metric(dict.fromkeys(infos, 0.0)) or ""
    rows = _rows(runs, numbers, repeated)
    rows = _ordered(_judged(rows, infos), main, infos)
    first = runs[0].record
    return Table(
        task=first.task,
        backbone=first.backbone,
        rows=tuple(rows),
        metrics=infos,
        main=main,
        bare={key.removesuffix("_before"): first.metrics[key] for key in first.metrics if key.endswith("_before")},
        caveats=(*found.notes, *collect_caveats(rows, numbers)),
    )


def _infos(numbers: Sequence[RunMetrics]) -> dict[str, MetricInfo]:
    """Every metric that any run has; the losses behind what the task is about."""
    infos = {key: info for number in numbers for key, info in number.infos.items()}
    of_test = {key: infos[key] for key in infos if key.startswith("test/")}
    main = main_metric(dict.fromkeys(of_test, 0.0))
    first = {main: infos[main]} if main else {}
    return {**first, **of_test, **infos}


def _rows(
    runs: Sequence[ComparedRun], numbers: Mapping[ComparedRun, RunMetrics], repeated: list[ExcludedRun]
) -> list[Row]:
    """Runs that differ in nothing but their seeds, together; of two with one seed the newer."""
    settings = [
        {**own, **phase}
        for own, phase in zip(differing_settings([run.record for run in runs]), _differing_phases(runs), strict=True)
    ]
    by_row: defaultdict[tuple[str, str], dict[Any, ComparedRun]] = defaultdict(dict)
    row_settings = {}
    for run, own in sorted(zip(runs, settings, strict=True), key=lambda pair: _written(pair[0])):
        key = (run.record.method, repr(sorted(own.items())))
        row_settings[key] = own
        if older := by_row[key].get(run.seed):
            repeated.append(
                ExcludedRun(older.folder.path, f"has the settings and the seed of {run.folder.path}, a newer run")
            )
        by_row[key][run.seed] = run
    rows = []
    for key, by_seed in by_row.items():
        own_runs = tuple(by_seed[seed] for seed in sorted(by_seed, key=str))
        rows.append(
            Row(
                number=0,
                method=key[0],
                settings=row_settings[key],
                runs=own_runs,
                numbers=tuple(numbers[run] for run in own_runs),
                summaries={},
                verdicts={},
            )
        )
    return rows


def _differing_phases(runs: Sequence[ComparedRun]) -> list[dict[str, str]]:
    """What a sweep's runs were for, where both are here: what was chosen for its number is no further seed of it."""
    phases = [run.phase for run in runs]
    differ = CONFIRM in phases and "search" in phases
    return [{"phase": phase} if phase and differ else {} for phase in phases]


def _judged(rows: Sequence[Row], infos: Mapping[str, MetricInfo]) -> list[Row]:
    """The rows with their numbers over seeds, and each beside the best."""
    summaries: list[dict[str, Summary]] = [{} for _ in rows]
    verdicts: list[dict[str, Verdict]] = [{} for _ in rows]
    for metric, info in infos.items():
        samples = {index: _sample(row, metric) for index, row in enumerate(rows) if _sample(row, metric)}
        for index, verdict in compare_with_best(samples, info.direction).items():
            summaries[index][metric] = summarize(list(samples[index].values()))
            verdicts[index][metric] = verdict
    return [
        replace(row, summaries=summary, verdicts=verdict)
        for row, summary, verdict in zip(rows, summaries, verdicts, strict=True)
    ]


def _sample(row: Row, metric: str) -> dict[Any, float]:
    pairs = zip(row.runs, row.numbers, strict=True)
    return {run.seed: number.metrics[metric] for run, number in pairs if metric in number.metrics}


def _ordered(rows: Sequence[Row], main: str, infos: Mapping[str, MetricInfo]) -> list[Row]:
    sign = -1 if infos[main].direction == "maximize" else 1

    def place(row: Row) -> tuple[bool, float, str]:
        summary = row.summaries.get(main)
        return summary is None, 0.0 if summary is None else sign * summary.mean, row.label

    return [replace(row, number=number) for number, row in enumerate(sorted(rows, key=place), start=1)]


def _written(run: ComparedRun) -> tuple[float, str]:
    written = run.folder.record if run.folder.record.exists() else run.folder.events
    return written.stat().st_mtime, str(run.folder.path)
