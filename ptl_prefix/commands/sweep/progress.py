"""The progress of a study: a live table on a terminal, a line a minute in a log."""

import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ptl_prefix.artifacts.event_log import read_events, validation_losses
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.commands.sweep.study_folder import Study
from ptl_prefix.commands.terminal import format_duration
from ptl_prefix.errors import PtlPrefixError
from ptl_prefix.sweeping.scheduler import Scheduler
from ptl_prefix.sweeping.summary import ArmSummary, Summary, summarize
from ptl_prefix.sweeping.trial import Trial
from ptl_prefix.sweeping.worker import Worker

_EVERY_S = 2.0


_LINE_EVERY_S = 60.0
"""Where nothing can be drawn over, as in a job's log."""


class Progress:
    """Shows a study while this process works at it.

    Args:
        study: Which.
        scheduler: What is written down.
        console: Where to.
    """

    def __init__(self, study: Study, scheduler: Scheduler, console: Console) -> None:
        self._study, self._scheduler, self._console = study, scheduler, console
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
        summary = summarize(self._scheduler)
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
        validations = validation_losses(events)
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
    title, follows = f"study {study.spec.name}", _what_follows(summary) or None
    table = Table(title=title, title_justify="left", caption=follows, caption_justify="left")
    table.add_column("arm" if len(summary.arms) > 1 else "")
    for heading in ("done", *shown, f"best {study.spec.objective}", "left"):
        table.add_column(heading, justify="right")
    for index, arm in enumerate(summary.arms):
        wanted = "" if arm.wanted is None else f"/{arm.wanted}"
        table.add_row(
            arm.name or study.spec.name,
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
    left = "" if None in seconds else f", {format_duration(sum(filter(None, seconds)))} left"
    follows = _what_follows(summary)
    return f"{done}{of_all} trials done, {running} running{left}{follows and f'; {follows}'}"


def _what_follows(summary: Summary) -> str:
    return f"then {summary.to_confirm} trials or fewer confirm the best" if summary.to_confirm else ""


def _left(arm: ArmSummary, workers: int) -> str:
    seconds = _left_s(arm, workers)
    return format_duration(seconds) if seconds else ""


def _left_s(arm: ArmSummary, workers: int) -> float | None:
    """Seconds until an arm is done, from what its trials took: training alone, and as if it had all workers.

    Returns: `None` where nobody knows: before the first trial has ended, or where a budget is no number of trials.
    """
    if arm.wanted is not None and arm.num_done >= arm.wanted:
        return 0.0
    if arm.wanted is None or not arm.num_done:
        return None
    return arm.train_s / arm.num_done * (arm.wanted - arm.num_done) / max(1, workers)
