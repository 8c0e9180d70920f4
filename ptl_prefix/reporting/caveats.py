"""What must be said beside a table, so that nobody reads more into it than is there.

In: the rows of a table. Out: sentences: what was chosen, seeds, budgets, machines, software, and runs that were taken
in by force.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from ptl_prefix.artifacts.run_folder import CONFIRM
from ptl_prefix.reporting.compared_run import ComparedRun
from ptl_prefix.reporting.run_metrics import RunMetrics
from ptl_prefix.reporting.table import Row

_MOST_SPOKEN = 6
"""More names than these nobody reads; a sweep has dozens."""


def collect_caveats(rows: Sequence[Row], numbers: Mapping[ComparedRun, RunMetrics]) -> list[str]:
    """Every sentence that applies."""
    runs = [run for row in rows for run in row.runs]
    found = [
        _chosen(rows),
        _seeds(rows),
        _pairs(rows),
        _budgets(rows),
        _forced(runs),
        _machines(runs),
        *_software(runs),
    ]
    unread = [str(run.folder.path) for run in runs if not numbers[run].predictions()]
    if unread:
        found.append(
            f"The outputs of some runs cannot be read, so that their test inputs are not known: {_listed(unread)}."
        )
    return [sentence for sentence in found if sentence]


def _chosen(rows: Sequence[Row]) -> str:
    if not any("phase" in row.settings for row in rows):
        return ""
    confirming = sorted({str(run.folder.path.parent) for row in rows for run in row.runs if run.phase == CONFIRM})
    return (
        "The best of phase=search were chosen for the very numbers that stand here, so part of those is luck; "
        f"phase=confirm is the same on other seeds, to be seen alone by: ptl-prefix compare {' '.join(confirming)}"
    )


def _seeds(rows: Sequence[Row]) -> str:
    counts = defaultdict(list)
    for row in rows:
        counts[len(row.runs)].append(f"#{row.number}" if row.number else row.label)
    single = "; of one seed there is no interval, and nothing is said about chance" if 1 in counts else ""
    if len(counts) == 1:
        (count,) = counts
        return f"Every row has {_counted(count, 'seed')}{single}."
    spoken = ", ".join(f"{_counted(count, 'seed')} in {_listed(names)}" for count, names in sorted(counts.items()))
    return f"Rows differ in how many seeds they have: {spoken}{single}."


def _pairs(rows: Sequence[Row]) -> str:
    sets = {tuple(run.seed for run in row.runs) for row in rows if len(row.runs) > 1}
    if len(sets) < 2:
        return ""
    unpaired = any(verdict.p is not None and not verdict.paired for row in rows for verdict in row.verdicts.values())
    welch = "; where they share fewer than two, Welch's test stands in for the paired one" if unpaired else ""
    return f"Not all rows have the same seeds: two rows are tested over those that they share{welch}."


def _budgets(rows: Sequence[Row]) -> str:
    steps = {f"{row.cost.steps:,.0f}" for row in rows}
    if len(steps) == 1:
        return f"Every row was trained for {steps.pop()} steps."
    if len(rows) > _MOST_SPOKEN:
        least, most = min(row.cost.steps for row in rows), max(row.cost.steps for row in rows)
        return f"Budgets differ: rows have {least:,.0f} to {most:,.0f} steps, each below."
    spoken = ", ".join(f"{row.label}: {row.cost.steps:,.0f}" for row in rows)
    return f"Budgets differ, in steps: {spoken}."


def _forced(runs: Sequence[ComparedRun]) -> str:
    forced = [f"{run.folder.path} ({run.record.status})" for run in runs if run.record.status != "finished"]
    return f"Taken in though they did not end by themselves: {_listed(forced)}." if forced else ""


def _machines(runs: Sequence[ComparedRun]) -> str:
    machines = {_machine(run.record.environment) for run in runs}
    if len(machines) < 2:
        return ""
    return f"Tokens/s and memory are of different machines, and do not compare: {_listed(sorted(machines))}."


def _machine(environment: Mapping[str, Any]) -> str:
    devices = environment.get("devices") or [environment.get("cpu", "unknown")]
    return f"{', '.join(map(str, devices))} ({environment.get('cores', '?')} cores)"


def _software(runs: Sequence[ComparedRun]) -> list[str]:
    """Versions that differ, as numbers may with them."""
    environments = [run.record.environment for run in runs]
    commits = {str((one.get("git") or {}).get("commit", ""))[:10] for one in environments} - {""}
    dirty = any((one.get("git") or {}).get("dirty") for one in environments)
    versions = defaultdict(set)
    for one in environments:
        for name, version in {"ptl-prefix": one.get("package_version"), **one.get("libraries", {})}.items():
            versions[name].add(str(version))
    mixed = [f"{name} {' and '.join(sorted(found))}" for name, found in versions.items() if len(found) > 1]
    sentences = [f"Runs were made with different versions: {_listed(mixed)}."] if mixed else []
    if len(commits) > 1:
        sentences.append(f"Runs were made by different commits: {_listed(sorted(commits))}.")
    if dirty:
        sentences.append("Some runs were made by code with changes that no commit holds.")
    return sentences


def _counted(count: int, noun: str) -> str:
    return f"one {noun}" if count == 1 else f"{count} {noun}s"


def _listed(names: Sequence[str]) -> str:
    """Names, of very many the first."""
    more = len(names) - _MOST_SPOKEN
    return ", ".join(names[:_MOST_SPOKEN]) + (f" and {more} more" if more > 0 else "")
