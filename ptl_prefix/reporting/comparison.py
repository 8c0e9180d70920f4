"""Groups runs into tables: one table per task and backbone, one row per method and settings, averaged over seeds.

In: runs. Out: a `Comparison`. `ComparisonError` if one table would mix results that are not comparable.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ptl_prefix.artifacts.metric_key import adapted_key, is_bare
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

TableKey = tuple[str, str]
"""A table's task and backbone."""


@dataclass(frozen=True)
class Comparison:
    """All tables, and the runs that are in none of them."""

    tables: tuple[Table, ...]
    excluded: tuple[ExcludedRun, ...]


def compare(
    runs: Sequence[ComparedRun], excluded: Sequence[ExcludedRun] = (), *, metric: str | None = None
) -> Comparison:
    """Compare runs.

    Args:
        runs: Runs to compare.
        excluded: Runs that were found but are not compared; the comparison lists them.
        metric: Metric that rows are sorted by; `None` means the main metric of each task.

    Raises:
        ComparisonError: With every reason why the runs are not comparable.
    """
    groups: defaultdict[TableKey, list[ComparedRun]] = defaultdict(list)
    for run in runs:
        groups[run.record.task, run.record.backbone].append(run)
    if not groups:
        reasons = "".join(f"\n  - {run.path} {run.reason}" for run in excluded)
        raise ComparisonError(f"A comparison needs at least one finished run, but found none.{reasons}")
    metrics = {key: select_metrics(group) for key, group in groups.items()}
    if problems := _problems(groups, metrics, metric):
        raise ComparisonError("\n".join(problems))
    superseded: list[ExcludedRun] = []
    tables = [_table(group, metrics[key], metric, superseded) for key, group in sorted(groups.items())]
    return Comparison(tuple(tables), (*excluded, *superseded))


def _problems(
    groups: Mapping[TableKey, Sequence[ComparedRun]], metrics: Mapping[TableKey, TableMetrics], metric: str | None
) -> list[str]:
    """Reasons why runs of one table are not comparable, and tables that do not have the chosen metric."""
    problems = [
        problem for key, group in groups.items() for problem in find_incompatibilities(group, metrics[key].by_run)
    ]
    for (task, backbone), of_table in metrics.items():
        infos = _metric_infos(of_table.by_run)
        if metric is not None and metric not in infos:
            problems.append(f"`metric` must be a metric of {task} on {backbone} ({', '.join(infos)}), but is {metric}.")
    return problems


def _table(
    runs: Sequence[ComparedRun], of_table: TableMetrics, metric: str | None, superseded: list[ExcludedRun]
) -> Table:
    """Build one table; runs that a newer one replaces are appended to `superseded`."""
    by_run = dict(zip(runs, of_table.by_run, strict=True))
    infos = _metric_infos(of_table.by_run)
    if not infos:
        paths = ", ".join(run.folder.shown for run in runs[:3])
        raise ComparisonError(f"A comparison needs metrics, but none of these runs recorded any: {paths}; remove them.")
    main = metric or main_metric(dict.fromkeys(infos, 0.0)) or ""
    bare = _bare(runs, of_table)
    rows = _sort(_add_statistics(_rows(runs, by_run, superseded), infos, bare), main, infos)
    first = runs[0].record
    return Table(
        task=first.task,
        backbone=first.backbone,
        rows=tuple(rows),
        metrics=infos,
        main=main,
        bare=bare,
        caveats=(*of_table.notes, *collect_caveats(rows, by_run)),
    )


def _bare(runs: Sequence[ComparedRun], of_table: TableMetrics) -> dict[str, float]:
    """The bare backbone's metrics, as the first run measured them, if they are of the same inputs as the rows'."""
    values = {adapted_key(key): value for key, value in runs[0].record.metrics.items() if is_bare(key)}
    wanted = runs[0].record.config.get("evaluation", {}).get("num_examples")
    num_inputs = of_table.by_run[0].num_examples
    if of_table.is_full_split and wanted is not None and num_inputs is not None and wanted < num_inputs:
        return {key: value for key, value in values.items() if not key.startswith("test/")}
    return values


def _metric_infos(of_runs: Sequence[RunMetrics]) -> dict[str, MetricInfo]:
    """Every metric that any run has, in the order of the columns: the main metric, other test metrics, losses."""
    infos = {key: info for of_run in of_runs for key, info in of_run.infos.items()}
    of_test = {key: infos[key] for key in infos if key.startswith("test/")}
    main = main_metric(dict.fromkeys(of_test, 0.0))
    first = {main: infos[main]} if main else {}
    return {**first, **of_test, **infos}


def _rows(
    runs: Sequence[ComparedRun], by_run: Mapping[ComparedRun, RunMetrics], superseded: list[ExcludedRun]
) -> list[Row]:
    """Group runs that differ only in their seeds; of two runs with the same seed, the newer one counts."""
    runs_by_row: defaultdict[tuple[str, str], dict[Any, ComparedRun]] = defaultdict(dict)
    settings_by_row = {}
    for run, settings in sorted(zip(runs, _row_settings(runs), strict=True), key=lambda pair: _written_at(pair[0])):
        key = (run.record.method, repr(sorted(settings.items())))
        settings_by_row[key] = settings
        if older := runs_by_row[key].get(run.seed):
            reason = f"has the settings and the seed of {run.folder.shown}, a newer run"
            superseded.append(ExcludedRun(older.folder.place, reason))
        runs_by_row[key][run.seed] = run
    return [_row(key[0], settings_by_row[key], by_seed, by_run) for key, by_seed in runs_by_row.items()]


def _row_settings(runs: Sequence[ComparedRun]) -> list[dict[str, Any]]:
    """For each run, the settings that distinguish its row from other rows.

    The runs of a study's search and of its confirmation never share a row: a configuration that was selected for its
    result is not an independent sample of that result.
    """
    phases = [run.phase for run in runs]
    has_both_phases = CONFIRM in phases and "search" in phases
    return [
        {**settings, "phase": phase} if phase and has_both_phases else settings
        for settings, phase in zip(differing_settings([run.record for run in runs]), phases, strict=True)
    ]


def _written_at(run: ComparedRun) -> tuple[float, str]:
    """When a run's record was written, or else its log; the path breaks ties."""
    file = run.folder.record if run.folder.record.exists() else run.folder.events
    return file.stat().st_mtime, run.folder.shown


def _row(
    method: str,
    settings: Mapping[str, Any],
    by_seed: Mapping[Any, ComparedRun],
    by_run: Mapping[ComparedRun, RunMetrics],
) -> Row:
    """A row without its number and statistics, which depend on the other rows."""
    runs = tuple(by_seed[seed] for seed in sorted(by_seed, key=str))
    return Row(
        number=0,
        method=method,
        settings=settings,
        runs=runs,
        run_metrics=tuple(by_run[run] for run in runs),
        summaries={},
        verdicts={},
    )


def _add_statistics(rows: Sequence[Row], infos: Mapping[str, MetricInfo], bare: Mapping[str, float]) -> list[Row]:
    """Add each metric's summary over seeds, and its comparison with the best row."""
    summaries: list[dict[str, Summary]] = [{} for _ in rows]
    verdicts: list[dict[str, Verdict]] = [{} for _ in rows]
    for metric, info in infos.items():
        samples = {index: values for index, row in enumerate(rows) if (values := _values_by_seed(row, metric))}
        for index, verdict in compare_with_best(samples, info.direction, bare=bare.get(metric)).items():
            summaries[index][metric] = summarize(list(samples[index].values()))
            verdicts[index][metric] = verdict
    return [
        replace(row, summaries=summary, verdicts=verdict)
        for row, summary, verdict in zip(rows, summaries, verdicts, strict=True)
    ]


def _values_by_seed(row: Row, metric: str) -> dict[Any, float]:
    pairs = zip(row.runs, row.run_metrics, strict=True)
    return {run.seed: of_run.metrics[metric] for run, of_run in pairs if metric in of_run.metrics}


def _sort(rows: Sequence[Row], main: str, infos: Mapping[str, MetricInfo]) -> list[Row]:
    """Sort rows by the main metric, best first, and number them; rows without that metric come last."""
    sign = -1 if infos[main].direction == "maximize" else 1

    def sort_key(row: Row) -> tuple[bool, float, str]:
        summary = row.summaries.get(main)
        return summary is None, 0.0 if summary is None else sign * summary.mean, row.label

    return [replace(row, number=number) for number, row in enumerate(sorted(rows, key=sort_key), start=1)]
