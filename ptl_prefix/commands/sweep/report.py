"""What a person sees of a study: a live table while it runs, and at the end what it says.

In: a scheduler and the workers of this process. Out: lines and tables on a terminal; where there is none, a line for
each trial that ends, and now and then one that says how far the study is.
"""

import shlex
from collections.abc import Collection, Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ptl_prefix.artifacts.run_folder import CONFIRM, RunFolder
from ptl_prefix.commands.config.reproduce import command_for
from ptl_prefix.commands.sweep.progress import trial_name
from ptl_prefix.commands.sweep.study_folder import Study
from ptl_prefix.commands.terminal import format_duration
from ptl_prefix.errors import PtlPrefixError
from ptl_prefix.reporting.comparison_files import write_comparison
from ptl_prefix.sweeping.scheduler import Scheduler
from ptl_prefix.sweeping.study_spec import StudySpec
from ptl_prefix.sweeping.summary import ArmSummary, Summary, best_of_arms, summarize
from ptl_prefix.sweeping.trial import FAILURES, Trial


def show_result(study: Study, scheduler: Scheduler, console: Console) -> None:
    """What a study says: its best trials, what failed, what was confirmed, which settings mattered, and the page."""
    summary = summarize(scheduler, with_importance=True)
    spec = study.spec
    for arm in summary.arms:
        if arm.name != CONFIRM and arm.best:
            console.print(_best_table(arm, spec))
    for line in _lines(study, summary, scheduler):
        console.print(Text(line), soft_wrap=True)
    if sum(arm.num_done for arm in summary.arms):
        _write_pages(study, scheduler, console)
    console.print(Text(f"study: {study.folder}"), soft_wrap=True)


def _best_table(arm: ArmSummary, spec: StudySpec) -> Table:
    title = f"best found{f', {arm.name}' if arm.name else ''}: {spec.objective}, {spec.direction}d"
    table = Table(title=title, title_justify="left")
    keys = list(spec.arm(arm.name).space.dimensions)
    # What stands before the last dot says itself; numbers are never cut.
    for heading in ("trial", *(key.rpartition(".")[2] for key in keys), spec.objective, "trained", "stored", "s"):
        table.add_column(heading, justify="right", overflow="fold")
    for trial in arm.best:
        values = [_short(trial.frozen.params.get(key)) for key in keys]
        sizes = [f"{trial.notes.get(f'parameters_{what}', 0):,}" for what in ("trained", "stored")]
        table.add_row(str(trial.number), *values, f"{trial.value:.4f}", *sizes, f"{trial.train_s:.1f}")
    return table


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _lines(study: Study, summary: Summary, scheduler: Scheduler) -> Iterator[str]:
    spec = study.spec
    for arm in summary.arms:
        where = f" of {arm.name}" if arm.name else ""
        if arm.importance:
            shares = ", ".join(f"{key} {share:.0%}" for key, share in arm.importance.items())
            yield f"importance{where} (PED-ANOVA, {arm.states['finished']} trials): {shares}"
        for kind, count in arm.failures.items():
            yield f"{count} trial(s){where} failed: {kind}, {FAILURES.get(kind, kind)}"
        if arm.surrender is not None:
            yield f"the search{where} was given up: {arm.surrender}"
    if summary.reused:
        yield f"{summary.reused} result(s) were known already and taken over"
    spent = sum(arm.train_s for arm in summary.arms)
    yield f"trained for {format_duration(spent)} in all"
    yield from _predicted(study, spent)
    for one in summary.confirmed:
        spread = "" if one.deviation is None else f" ± {one.deviation:.4f}"
        yield (
            f"confirmed: {one.candidate} has {spec.objective} {one.mean:.4f}{spread} "
            f"(mean and standard deviation of {len(one.values)} seeds)"
        )
    best = best_of_arms(summary, spec.sign)
    if best:
        yield f"best found, on the seed of the search: {trial_name(best[0])}, {spec.objective} {best[0].value:.4f}"
        yield f"  {command_of(spec, best[0])}"


def _predicted(study: Study, spent: float) -> Iterator[str]:
    from ptl_prefix.commands.sweep.cost_estimate import read_plan

    plan = read_plan(study.folder)
    if plan is not None:
        low, high = plan.train_s
        yield f"predicted {format_duration(low)} to {format_duration(high)} of training, took {format_duration(spent)}"


def command_of(spec: StudySpec, trial: Trial) -> str:
    """What trains a trial's config again, alone."""
    fixed = () if trial.arm == CONFIRM else spec.arm(trial.arm).overrides
    given = [text for text in spec.overrides if not text.startswith(("hydra", "sweeps="))]
    return shlex.join(["ptl-prefix", "train", *given, *fixed, *trial.overrides])


def _write_pages(study: Study, scheduler: Scheduler, console: Console) -> None:
    """The page of `compare` for the study's trials; what was confirmed and what was found are pages of their own."""
    found, confirmed = set[str](), set[str]()
    for trial in scheduler.all_trials():
        folder = trial.folder(study.folder)
        if trial.state in ("finished", "pruned") and RunFolder(folder).record.exists():
            (confirmed if trial.arm == CONFIRM else found).add(str(folder))
    if confirmed:
        _write_page(confirmed, study.folder / "comparison", "page of what was confirmed", console)
        _write_page(found, study.folder / "comparison/search", "page of the search", console)
    else:
        _write_page(found, study.folder / "comparison", "page", console)


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
