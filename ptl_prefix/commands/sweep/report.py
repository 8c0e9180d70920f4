"""Prints the result of a study, and writes its comparison page.

In: a study's scheduler. Out: tables of the best trials, lines about failures, reused results, cost, importance and
confirmation, the command that repeats the best trial, and a page that compares the trials.
"""

from collections.abc import Collection, Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ptl_prefix.artifacts.run_folder import CONFIRM, RunFolder
from ptl_prefix.commands.config.reproduce import command_for
from ptl_prefix.commands.sweep.cost_estimate import read_estimate
from ptl_prefix.commands.sweep.progress import trial_name
from ptl_prefix.commands.sweep.trial_command import train_command
from ptl_prefix.commands.terminal import format_duration
from ptl_prefix.errors import PtlPrefixError
from ptl_prefix.reporting.comparison_files import write_comparison
from ptl_prefix.sweeping.scheduler import Scheduler
from ptl_prefix.sweeping.seed_groups import searched_settings
from ptl_prefix.sweeping.study_spec import StudySpec
from ptl_prefix.sweeping.summary import ArmSummary, Summary, best_arm, summarize
from ptl_prefix.sweeping.trial import FAILURES

_MAX_SETTINGS = 10


def show_result(scheduler: Scheduler, console: Console) -> None:
    """Print a study's result, and write its page."""
    summary = summarize(scheduler, with_importance=True)
    spec = scheduler.spec
    for arm in summary.arms:
        if arm.name != CONFIRM and arm.best:
            console.print(_means_table(arm, spec) if arm.seed_groups else _best_table(arm, spec))
    for line in (*_arm_lines(summary), *_study_lines(summary, spec, scheduler.folder)):
        console.print(Text(line), soft_wrap=True)
    if sum(arm.num_done for arm in summary.arms):
        _write_pages(scheduler, console)
    console.print(Text(f"study: {scheduler.folder}"), soft_wrap=True)


def _best_table(arm: ArmSummary, spec: StudySpec) -> Table:
    title = f"best trials{f' of {arm.name}' if arm.name else ''}: {spec.objective}, {spec.direction}d"
    table = Table(title=title, title_justify="left")
    keys = list(spec.arm(arm.name).space.dimensions)
    # The part of a key after the last dot is clear enough. Numbers are folded, never cut.
    for heading in ("trial", *(key.rpartition(".")[2] for key in keys), spec.objective, "trained", "stored", "s"):
        table.add_column(heading, justify="right", overflow="fold")
    for trial in arm.best:
        values = [_format_value(trial.params.get(key)) for key in keys]
        sizes = [f"{trial.notes.get(f'parameters_{kind}', 0):,}" for kind in ("trained", "stored")]
        table.add_row(str(trial.number), *values, f"{trial.value:.4f}", *sizes, f"{trial.train_s:.1f}")
    return table


def _means_table(arm: ArmSummary, spec: StudySpec) -> Table:
    """The settings of a search over seeds, by their means: a table of trials would show the luckiest seeds first."""
    title = f"best settings{f' of {arm.name}' if arm.name else ''}: mean {spec.objective} over seeds, {spec.direction}d"
    table = Table(title=title, title_justify="left")
    keys = searched_settings(spec.arm(arm.name))
    for heading in (*(key.rpartition(".")[2] for key in keys), "mean", "std", "seeds"):
        table.add_column(heading, justify="right", overflow="fold")
    for group in arm.seed_groups[:_MAX_SETTINGS]:
        values = [_format_value(group.trials[0].params.get(key)) for key in keys]
        deviation = "" if group.deviation is None else f"{group.deviation:.4f}"
        table.add_row(*values, f"{group.mean:.4f}", deviation, str(len(group.values)))
    return table


def _format_value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _arm_lines(summary: Summary) -> Iterator[str]:
    for arm in summary.arms:
        of_arm = f" of {arm.name}" if arm.name else ""
        if arm.importance:
            shares = ", ".join(f"{key} {share:.0%}" for key, share in arm.importance.items())
            yield f"importance{of_arm} (PED-ANOVA, {arm.states['finished']} trials): {shares}"
        for kind, count in arm.failures.items():
            yield f"{count} trial(s){of_arm} failed: {kind}: {FAILURES.get(kind, kind)}"
        if arm.failure_reason is not None:
            yield f"the search{of_arm} was stopped: {arm.failure_reason}"


def _study_lines(summary: Summary, spec: StudySpec, folder: Path) -> Iterator[str]:
    if summary.num_reused:
        yield f"{summary.num_reused} result(s) were reused from earlier runs"
    train_s = sum(arm.train_s for arm in summary.arms)
    yield f"training time of all trials: {format_duration(train_s)}"
    estimate = read_estimate(folder)
    if estimate is not None:
        low, high = estimate.train_s
        yield f"estimated before: {format_duration(low)} to {format_duration(high)}"
    for one in summary.confirmed:
        spread = "" if one.deviation is None else f" ± {one.deviation:.4f}"
        yield (
            f"confirmed: {one.candidate} has {spec.objective} {one.mean:.4f}{spread} "
            f"(mean and standard deviation of {len(one.values)} seeds)"
        )
    if (arm := best_arm(summary, spec.sign)) is not None:
        yield from _best_lines(arm, spec, folder)


def _best_lines(arm: ArmSummary, spec: StudySpec, folder: Path) -> Iterator[str]:
    """The best trial, or the setting with the best mean over seeds, and the command that trains it again."""
    best = arm.best[0]
    if not arm.seed_groups:
        yield f"best trial, on the seed of the search: {trial_name(best)}, {spec.objective} {best.value:.4f}"
        yield f"  {train_command(spec, [best], folder)}"
        return
    group = arm.seed_groups[0]
    names = ", ".join(trial_name(trial) for trial in group.trials)
    yield f"best setting: mean {spec.objective} {group.mean:.4f} over {len(group.values)} seed(s), trials {names}"
    yield from (f"  {line}" for line in train_command(spec, group.trials, folder).split("\n"))


def _write_pages(scheduler: Scheduler, console: Console) -> None:
    """Write the page of `compare` for the trials of the search; confirmed trials get a page of their own."""
    searched, confirmed = set[str](), set[str]()
    for trial in scheduler.all_trials():
        folder = trial.folder(scheduler.folder)
        if trial.state in ("finished", "pruned") and RunFolder(folder).record.exists():
            (confirmed if trial.arm == CONFIRM else searched).add(str(folder))
    out = scheduler.folder / "comparison"
    if confirmed:
        _write_page(confirmed, out, "page of the confirmed trials", console)
        _write_page(searched, out / "search", "page of the search", console)
    else:
        _write_page(searched, out, "page", console)


def _write_page(folders: Collection[str], out: Path, name: str, console: Console) -> None:
    try:
        _, paths = write_comparison(
            sorted(folders), include=["pruned"], metric=None, out=out, num_examples=3, command_for=command_for
        )
    except PtlPrefixError as error:
        console.print(Text(f"no {name}: {error}"), soft_wrap=True)
        return
    for path in paths:
        if path.suffix == ".html":
            console.print(Text(f"{name}:  {path}"), soft_wrap=True)
