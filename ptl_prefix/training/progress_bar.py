"""Progress of a training on the console."""

import time
from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from ptl_prefix.training.meter import Meter
from ptl_prefix.training.module import AdaptationModule
from ptl_prefix.training.selection import GeneratedMetric
from ptl_prefix.training.stage_progress import LINE_EVERY_S

_WIDTH_WITH_BAR = 120


class _Numbers(TextColumn):
    """The loss and the rate: the one column that is cut where a terminal is narrow."""

    def __init__(self) -> None:
        super().__init__("{task.fields[numbers]}", table_column=Column())

    def render(self, task: Task) -> Text:
        """The numbers on one line."""
        text = super().render(task)
        text.no_wrap, text.overflow = True, "ellipsis"
        return text


def bar_columns(width: int) -> list[ProgressColumn]:
    """The columns that fit a terminal of this width, in characters. The time left is never cut."""
    whole = [Column(no_wrap=True) for _ in range(3)]
    columns: list[ProgressColumn] = [TextColumn("[bold]train"), MofNCompleteColumn(table_column=whole[0])]
    if width >= _WIDTH_WITH_BAR:
        columns += [BarColumn(), TimeElapsedColumn(table_column=whole[1])]
    return [*columns, TextColumn("left"), TimeRemainingColumn(table_column=whole[2]), _Numbers()]


class ProgressBar(pl.Callback):
    """A bar with step, loss, tokens per second and time left.

    Without a terminal, a line is printed at every validation, and every half minute between them.

    Args:
        meter: Counts tokens and seconds.
        console: Console of the bar.
        metric: Metric of generated texts that is shown beside the validation loss; `None` for none.
    """

    def __init__(self, meter: Meter, console: Console, metric: GeneratedMetric | None = None) -> None:
        self._meter, self._metric = meter, metric
        self._console = console
        self._bar: Progress | None = None
        self._printed_at = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the bar at the current step."""
        if not self._console.is_terminal:
            return
        self._bar = Progress(*bar_columns(self._console.width), console=self._console)
        self._task = self._bar.add_task("", total=trainer.max_steps, completed=trainer.global_step, numbers="")
        self._bar.start()

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: pl.Trainer, pl_module: AdaptationModule, *_: Any
    ) -> None:
        """Move the bar; without a terminal, print a line if the last one is half a minute old."""
        self._move_bar(trainer, pl_module)
        if self._bar is None and time.monotonic() - self._printed_at >= LINE_EVERY_S:
            self._print_line(trainer, f"loss {pl_module.last_step.get('train/loss', float('nan')):.4f}")

    def _move_bar(self, trainer: pl.Trainer, pl_module: AdaptationModule) -> None:
        if self._bar is not None:
            loss = pl_module.last_step.get("train/loss", float("nan"))
            validated = trainer.callback_metrics.get("val/loss")
            val = "" if validated is None else f"  {self._meter.loss_key} {float(validated):.3f}"
            numbers = f"loss {loss:.3f}{val}{self._value()}  {self._meter.tokens_per_s:,.0f} tokens/s"
            self._bar.update(self._task, completed=trainer.global_step, numbers=numbers)

    def on_validation_end(  # type: ignore[override]
        self, trainer: pl.Trainer, pl_module: AdaptationModule
    ) -> None:
        """Show the new loss in the bar, or as a line without a terminal."""
        self._move_bar(trainer, pl_module)
        if self._bar is None:
            loss = float(trainer.callback_metrics["val/loss"])
            self._print_line(trainer, f"{self._meter.loss_key} {loss:.4f}{self._value()}")

    def _value(self) -> str:
        """The metric of the newest validation, if it has one."""
        value = None if self._metric is None else self._metric.value
        return "" if self._metric is None or value is None else f"  {self._metric.key} {value:.4f}"

    def _print_line(self, trainer: pl.Trainer, loss: str) -> None:
        self._printed_at = time.monotonic()
        self._console.print(
            f"step {trainer.global_step}/{trainer.max_steps}  {loss}  "
            f"{self._meter.tokens_per_s:,.0f} tokens/s  {self._meter.train_s:.0f} s",
            highlight=False,
        )

    def on_train_end(self, *_: Any) -> None:
        """Leave the finished bar on the screen."""
        self._close()

    def on_exception(self, *_: Any) -> None:
        """Stop the bar, so that the terminal is usable after an error."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
