"""Sentences that qualify a table's results, so that readers do not conclude more than the runs support.

In: the rows of a table. Out: sentences about selection, seeds, budgets, unfinished runs, machines and software.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from ptl_prefix.artifacts.printed_command import printed_command
from ptl_prefix.artifacts.run_folder import CONFIRM
from ptl_prefix.reporting.compared_run import ComparedRun
from ptl_prefix.reporting.run_metrics import RunMetrics
from ptl_prefix.reporting.table import Row

_MAX_NAMES = 6
"""Longer lists of names are truncated; a study can have dozens of runs."""


def collect_caveats(rows: Sequence[Row], by_run: Mapping[ComparedRun, RunMetrics]) -> list[str]:
    """Return every caveat that applies."""
    runs = [run for row in rows for run in row.runs]
    caveats = [
        _selection(rows),
        _seeds(rows),
        _pairing(rows),
        _budgets(rows),
        _unfinished(runs),
        _machines(runs),
        *_software(runs),
    ]
    unreadable = [run.folder.shown for run in runs if not by_run[run].predictions()]
    if unreadable:
        caveats.append(
            "The predictions of some runs are not readable, so it was not checked that these runs were tested on the "
            f"same inputs: {_listed(unreadable)}."
        )
    return [sentence for sentence in caveats if sentence]


def _selection(rows: Sequence[Row]) -> str:
    if not any("phase" in row.settings for row in rows):
        return ""
    confirming = sorted({str(run.folder.path.parent) for row in rows for run in row.runs if run.phase == CONFIRM})
    return (
        "The best rows with phase=search were selected by the metric shown here, which is therefore optimistic for "
        "them. Rows with phase=confirm train the selected configurations with other seeds; compare them alone with: "
        f"{printed_command('compare', *confirming)}"
    )


def _seeds(rows: Sequence[Row]) -> str:
    counts = defaultdict(list)
    for row in rows:
        counts[len(row.runs)].append(f"#{row.number}" if row.number else row.label)
    single = " A single seed has no confidence interval and no significance test." if 1 in counts else ""
    if len(counts) == 1:
        (count,) = counts
        return f"Every row has {_counted(count, 'seed')}.{single}"
    groups = ", ".join(f"{_counted(count, 'seed')} in {_listed(names)}" for count, names in sorted(counts.items()))
    return f"The number of seeds differs between rows: {groups}.{single}"


def _pairing(rows: Sequence[Row]) -> str:
    sets = {tuple(run.seed for run in row.runs) for row in rows if len(row.runs) > 1}
    if len(sets) < 2:
        return ""
    has_unpaired = any(
        verdict.p is not None and not verdict.paired for row in rows for verdict in row.verdicts.values()
    )
    welch = " Rows that share fewer than two seeds are compared with Welch's t-test." if has_unpaired else ""
    return f"Rows have different seeds; the paired t-test uses the seeds that two rows share.{welch}"


def _budgets(rows: Sequence[Row]) -> str:
    steps = {f"{row.cost.steps:,.0f}" for row in rows}
    if len(steps) == 1:
        return f"Every row was trained for {steps.pop()} steps."
    if len(rows) > _MAX_NAMES:
        least, most = min(row.cost.steps for row in rows), max(row.cost.steps for row in rows)
        return f"Training budgets differ, from {least:,.0f} to {most:,.0f} steps; the cost table lists them."
    steps_by_row = ", ".join(f"{row.label}: {row.cost.steps:,.0f}" for row in rows)
    return f"Training budgets differ, in steps: {steps_by_row}."


def _unfinished(runs: Sequence[ComparedRun]) -> str:
    unfinished = [f"{run.folder.shown} ({run.record.status})" for run in runs if run.record.status != "finished"]
    return f"These runs are included although they did not finish: {_listed(unfinished)}." if unfinished else ""


def _machines(runs: Sequence[ComparedRun]) -> str:
    machines = {_machine(run.record.environment) for run in runs}
    if len(machines) < 2:
        return ""
    return (
        "Tokens/s and peak memory are not comparable, because they were measured on different machines: "
        f"{_listed(sorted(machines))}."
    )


def _machine(environment: Mapping[str, Any]) -> str:
    devices = environment.get("devices") or [environment.get("cpu", "unknown")]
    return f"{', '.join(map(str, devices))} ({environment.get('cores', '?')} cores)"


def _software(runs: Sequence[ComparedRun]) -> list[str]:
    """Software versions that differ, because results may differ with them."""
    environments = [run.record.environment for run in runs]
    commits = {str((one.get("git") or {}).get("commit", ""))[:10] for one in environments} - {""}
    has_dirty = any((one.get("git") or {}).get("dirty") for one in environments)
    versions = defaultdict(set)
    for one in environments:
        for name, version in {"ptl-prefix": one.get("package_version"), **(one.get("libraries") or {})}.items():
            versions[name].add(str(version))
    mixed = [f"{name} {' and '.join(sorted(found))}" for name, found in versions.items() if len(found) > 1]
    sentences = [f"Runs used different software versions: {_listed(mixed)}."] if mixed else []
    if len(commits) > 1:
        sentences.append(f"Runs used different git commits: {_listed(sorted(commits))}.")
    if has_dirty:
        sentences.append("Some runs used code with uncommitted changes.")
    return sentences


def _counted(count: int, noun: str) -> str:
    return f"one {noun}" if count == 1 else f"{count} {noun}s"


def _listed(names: Sequence[str]) -> str:
    """Join names with commas, and truncate long lists."""
    more = len(names) - _MAX_NAMES
    return ", ".join(names[:_MAX_NAMES]) + (f" and {more} more" if more > 0 else "")
