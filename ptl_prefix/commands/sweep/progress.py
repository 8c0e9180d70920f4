"""Shows the progress of a study: a live table on a terminal, a status line every minute elsewhere.

In: a study's scheduler, and the number of its workers. Out: tables and lines on a console.
"""

import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ptl_prefix.artifacts.event_log import ranking_losses, read_events
from ptl_prefix.artifacts.printed_command import printed_command
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.commands.terminal import format_duration
from ptl_prefix.errors import PtlPrefixError
from ptl_prefix.sweeping.scheduler import Scheduler
from ptl_prefix.sweeping.study_spec import StudySpec
from ptl_prefix.sweeping.summary import ArmSummary, Summary, summarize
from ptl_prefix.sweeping.trial import Trial

_TABLE_EVERY_S = 2.0
_MOST_ROWS = 16
_LINE_EVERY_S = 60.0
"""Seconds between status lines where no table can be redrawn, for example in the log of a cluster's job."""


class Progress:
    """Shows a study while this process works on it.

    Args:
        scheduler: The study's scheduler.
        console: Where the progress is shown.
    """

    def __init__(self, scheduler: Scheduler, console: Console) -> None:
        self._scheduler, self._console = scheduler, console
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        # The first status line is due after a minute, the first table at once.
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

    def notify(self, text: str) -> None:
        """Print a status line, above the table if there is one."""
        self._console.print(Text(text), soft_wrap=True)

    def refresh(self, num_workers: int) -> None:
        """Show the current state if the last one was shown long enough ago.

        Args:
            num_workers: Workers, or packs of workers, that this process has started.
        """
        if time.monotonic() - self._shown_at < (_LINE_EVERY_S if self._live is None else _TABLE_EVERY_S):
            return
        self._shown_at = time.monotonic()
        summary, spec = summarize(self._scheduler), self._scheduler.spec
        if self._live is None:
            self.notify(status_line(summary, num_workers))
            return
        tables = Group(status_table(spec, summary, num_workers), _running_table(self._scheduler))
        self._live.update(tables, refresh=True)


def _running_table(scheduler: Scheduler) -> Table:
    """A row for each running trial of the study, on whichever machine."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("trial", "point", "step", "val/loss"):
        table.add_column(heading)
    running = [trial for trial in scheduler.all_trials() if trial.state == "running"]
    for trial in running[:_MOST_ROWS]:
        table.add_row(trial_name(trial), trial.label, *_last_step_and_loss(trial, scheduler.folder))
    if len(running) > _MOST_ROWS:
        table.add_row("...", f"{len(running) - _MOST_ROWS} more")
    return table


def trial_name(trial: Trial) -> str:
    """The name of a trial in tables: `arm/number`, or its number in a study with one arm."""
    return f"{trial.arm}/{trial.number}" if trial.arm else str(trial.number)


def _last_step_and_loss(trial: Trial, study: Path) -> tuple[str, str]:
    """The last step in a trial's log, and its last validation loss; of another machine, what the study has of them."""
    losses, step = dict(trial.intermediate_values), 0
    with suppress(PtlPrefixError):
        events = read_events(RunFolder(trial.folder(study)).events)
        losses |= dict(ranking_losses(events))
        step = max((event["step"] for event in events), default=0)
    last = max(losses, default=0)
    return str(max(step, last)), f"{losses[last]:.4g}" if losses else ""


def status_table(spec: StudySpec, summary: Summary, num_workers: int) -> Table:
    """A row for each arm: its numbers of trials, the best objective and the remaining time."""
    counts = {
        "pruned": [arm.states["pruned"] for arm in summary.arms],
        "running": [arm.states["running"] for arm in summary.arms],
        "paused": [arm.states["paused"] + arm.states["interrupted"] for arm in summary.arms],
        "failed": [arm.states["failed"] for arm in summary.arms],
    }
    # A column of zeros would only take space.
    shown = {heading: of_arms for heading, of_arms in counts.items() if any(of_arms)}
    caption = _format_confirmation(summary) or None
    table = Table(title=f"study {spec.name}", title_justify="left", caption=caption, caption_justify="left")
    table.add_column("arm" if len(summary.arms) > 1 else "")
    for heading in ("done", *shown, f"best {spec.objective}", "left"):
        table.add_column(heading, justify="right")
    for index, arm in enumerate(summary.arms):
        planned = "" if arm.num_planned is None else f"/{arm.num_planned}"
        seconds = _remaining_s(arm, num_workers)
        table.add_row(
            arm.name or spec.name,
            f"{arm.num_done}{planned}",
            *(str(of_arms[index] or "") for of_arms in shown.values()),
            "" if arm.best_value is None else f"{arm.best_value:.4g}",
            format_duration(seconds) if seconds else "",
        )
    return table


def state_line(scheduler: Scheduler, summary: Summary) -> str:
    """What the study is doing, and how to resume it if it is stopped."""
    if any(arm.states["running"] for arm in summary.arms):
        return "stopping: running trials end, and none starts" if scheduler.stop_request else "running"
    if scheduler.is_done:
        return "finished"
    return f"stopped: no trial runs. Resume with:\n  {printed_command('sweep', 'resume', scheduler.folder)}"


def status_line(summary: Summary, num_workers: int) -> str:
    """The state of all arms in one line."""
    done, planned = sum(arm.num_done for arm in summary.arms), [arm.num_planned for arm in summary.arms]
    of_all = "" if None in planned else f" of {sum(filter(None, planned))}"
    running = sum(arm.states["running"] for arm in summary.arms)
    seconds = [_remaining_s(arm, num_workers) for arm in summary.arms]
    left = "" if None in seconds else f", {format_duration(sum(filter(None, seconds)))} left"
    confirmation = _format_confirmation(summary)
    return f"{done}{of_all} trials done, {running} running{left}{confirmation and f'; {confirmation}'}"


def _format_confirmation(summary: Summary) -> str:
    return f"then up to {summary.max_confirmations} trials confirm the best" if summary.max_confirmations else ""


def _remaining_s(arm: ArmSummary, num_workers: int) -> float | None:
    """Remaining seconds of an arm: from the training time of its trials so far, as if it had all workers.

    Returns:
        `None` before the first trial has ended, or if the budget is not a number of trials.
    """
    if arm.num_planned is not None and arm.num_done >= arm.num_planned:
        return 0.0
    if arm.num_planned is None or not arm.num_done:
        return None
    return arm.train_s / arm.num_done * (arm.num_planned - arm.num_done) / max(1, num_workers)
