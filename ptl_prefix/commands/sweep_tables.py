"""What a person sees of a study: a live table while it runs, and at the end what it says.

In: a desk and the workers of this process. Out: lines and tables on a terminal; where there is none, a line for each
trial that ends, and now and then one that says how far the study is.
"""

import shlex
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ptl_prefix.artifacts.event_log import read_events, validations_in
from ptl_prefix.artifacts.run_folder import CONFIRM, RunFolder
from ptl_prefix.commands.compare import write_comparison
from ptl_prefix.commands.studies import Study
from ptl_prefix.errors import PtlPrefixError
from ptl_prefix.sweeping.desk import Desk
from ptl_prefix.sweeping.question import Question
from ptl_prefix.sweeping.summary import ArmSummary, Summary, best_of_arms, summarize
from ptl_prefix.sweeping.trials import FAILURES, Trial
from ptl_prefix.sweeping.worker import Worker

_EVERY_S = 2.0
_LINE_EVERY_S = 60.0
"""Where nothing can be drawn over, as in a job's log."""


class Progress:
    """Shows a study while this process works at it.

    Args:
        study: Which.
        desk: What is written down.
        console: Where to.
    """

    def __init__(self, study: Study, desk: Desk, console: Console) -> None:
        self._study, self._desk, self._console = study, desk, console
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        # A first line says how things go; when they begin others say so.
        self._shown_at = time.monotonic() if self._live is None else 0.0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """One sentence, above the table."""
        self._console.print(Text(text), soft_wrap=True)

    def refresh(self, workers: Sequence[Worker]) -> None:
        """Show what is now, as a table or where there is no terminal as a line; not more often than one could read.

        Args:
            workers: Those of this process.
        """
        if time.monotonic() - self._shown_at < (_LINE_EVERY_S if self._live is None else _EVERY_S):
            return
        self._shown_at = time.monotonic()
        summary = summarize(self._desk)
        if self._live is None:
            self.say(status_line(summary, len(workers)))
            return
        running = Table(box=None, pad_edge=False, header_style="bold")
        for heading in ("worker", "trial", "point", "step", "val/loss"):
            running.add_column(heading)
        for number, worker in enumerate(workers):
            if (job := worker.job) is not None:
                running.add_row(str(number), trial_name(job.trial), job.trial.label, *_so_far(job.folder))
        self._live.update(Group(status_table(self._study, summary, len(workers)), running), refresh=True)


def trial_name(trial: Trial) -> str:
    """How a trial is called."""
    return f"{trial.arm}/{trial.number}" if trial.arm else str(trial.number)


def _so_far(folder: RunFolder) -> tuple[str, str]:
    """How far a run is: its newest step and validation."""
    with suppress(PtlPrefixError):
        events = read_events(folder.events)
        validations = validations_in(events)
        return str(
            max((event["step"] for event in events), default=0)
        ), f"{validations[-1][1]:.4g}" if validations else ""
    return "0", ""


def status_table(study: Study, summary: Summary, workers: int) -> Table:
    """A line for each arm: how many trials of which kind, the best value, and how long it will take."""
    counts = {
        "pruned": [arm.states["pruned"] for arm in summary.arms],
        "running": [arm.states["running"] for arm in summary.arms],
        "paused": [arm.states["paused"] + arm.states["interrupted"] for arm in summary.arms],
        "failed": [arm.states["failed"] for arm in summary.arms],
    }
    # What there is none of takes no room from the rest.
    shown = {heading: of_arms for heading, of_arms in counts.items() if any(of_arms)}
    title, follows = f"study {study.question.name}", _what_follows(summary) or None
    table = Table(title=title, title_justify="left", caption=follows, caption_justify="left")
    table.add_column("arm" if len(summary.arms) > 1 else "")
    for heading in ("done", *shown, f"best {study.question.objective}", "left"):
        table.add_column(heading, justify="right")
    for index, arm in enumerate(summary.arms):
        wanted = "" if arm.wanted is None else f"/{arm.wanted}"
        table.add_row(
            arm.name or study.question.name,
            f"{arm.num_done}{wanted}",
            *(str(of_arms[index] or "") for of_arms in shown.values()),
            f"{arm.best[0].value:.4g}" if arm.best else "",
            _left(arm, workers),
        )
    return table


def status_line(summary: Summary, workers: int) -> str:
    """The same in a sentence."""
    done, wanted = sum(arm.num_done for arm in summary.arms), [arm.wanted for arm in summary.arms]
    of_all = "" if None in wanted else f" of {sum(filter(None, wanted))}"
    running = sum(arm.states["running"] for arm in summary.arms)
    seconds = [_left_s(arm, workers) for arm in summary.arms]
    left = "" if None in seconds else f", {duration(sum(filter(None, seconds)))} left"
    follows = _what_follows(summary)
    return f"{done}{of_all} trials done, {running} running{left}{follows and f'; {follows}'}"


def _what_follows(summary: Summary) -> str:
    return f"then {summary.to_confirm} trials or fewer confirm the best" if summary.to_confirm else ""


def _left(arm: ArmSummary, workers: int) -> str:
    seconds = _left_s(arm, workers)
    return duration(seconds) if seconds else ""


def _left_s(arm: ArmSummary, workers: int) -> float | None:
    """Seconds until an arm is done, from what its trials took: training alone, and as if it had all workers.

    Returns: `None` where nobody knows: before the first trial has ended, or where a budget is no number of trials.
    """
    if arm.wanted is not None and arm.num_done >= arm.wanted:
        return 0.0
    if arm.wanted is None or not arm.num_done:
        return None
    return arm.train_s / arm.num_done * (arm.wanted - arm.num_done) / max(1, workers)


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def show_result(study: Study, desk: Desk, console: Console) -> None:
    """What a study says: its best trials, what failed, what was confirmed, which settings mattered, and the page."""
    summary = summarize(desk, with_importance=True)
    question = study.question
    for arm in summary.arms:
        if arm.name != CONFIRM and arm.best:
            console.print(_best_table(arm, question))
    for line in _lines(study, summary, desk):
        console.print(Text(line), soft_wrap=True)
    if sum(arm.num_done for arm in summary.arms):
        _write_pages(study, desk, console)
    console.print(Text(f"study: {study.folder}"), soft_wrap=True)


def _best_table(arm: ArmSummary, question: Question) -> Table:
    title = f"best found{f', {arm.name}' if arm.name else ''}: {question.objective}, {question.direction}d"
    table = Table(title=title, title_justify="left")
    keys = list(question.arm(arm.name).space.dimensions)
    # What stands before the last dot says itself; numbers are never cut.
    for heading in ("trial", *(key.rpartition(".")[2] for key in keys), question.objective, "trained", "stored", "s"):
        table.add_column(heading, justify="right", overflow="fold")
    for trial in arm.best:
        values = [_short(trial.frozen.params.get(key)) for key in keys]
        sizes = [f"{trial.notes.get(f'parameters_{what}', 0):,}" for what in ("trained", "stored")]
        table.add_row(str(trial.number), *values, f"{trial.value:.4f}", *sizes, f"{trial.train_s:.1f}")
    return table


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _lines(study: Study, summary: Summary, desk: Desk) -> Iterator[str]:
    question = study.question
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
    yield f"trained for {duration(spent)} in all"
    yield from _predicted(study, spent)
    for one in summary.confirmed:
        spread = "" if one.deviation is None else f" ± {one.deviation:.4f}"
        yield (
            f"confirmed: {one.candidate} has {question.objective} {one.mean:.4f}{spread} "
            f"(mean and standard deviation of {len(one.values)} seeds)"
        )
    best = best_of_arms(summary, question.sign)
    if best:
        yield f"best found, on the seed of the search: {trial_name(best[0])}, {question.objective} {best[0].value:.4f}"
        yield f"  {command_of(question, best[0])}"


def _predicted(study: Study, spent: float) -> Iterator[str]:
    from ptl_prefix.commands.sweep_plan import read_plan

    plan = read_plan(study.folder)
    if plan is not None:
        low, high = plan.train_s
        yield f"predicted {duration(low)} to {duration(high)} of training, took {duration(spent)}"


def command_of(question: Question, trial: Trial) -> str:
    """What trains a trial's config again, alone."""
    fixed = () if trial.arm == CONFIRM else question.arm(trial.arm).overrides
    given = [text for text in question.overrides if not text.startswith(("hydra", "sweeps="))]
    return shlex.join(["ptl-prefix", "train", *given, *fixed, *trial.overrides])


def _write_pages(study: Study, desk: Desk, console: Console) -> None:
    """The page of `compare` for the study's trials; what was confirmed and what was found are pages of their own."""
    found, confirmed = set[str](), set[str]()
    for trial in desk.all_trials():
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
        _, paths = write_comparison(sorted(folders), ["pruned"], None, out, 3)
    except PtlPrefixError as error:
        console.print(Text(f"no {name}: {error}"), soft_wrap=True)
        return
    for path in paths:
        if path.suffix == ".html":
            console.print(Text(f"{name}:  {path}"), soft_wrap=True)
