"""Progress of a training in a notebook."""

import time
from typing import Any

import pytorch_lightning as pl

from ptl_prefix.training.meter import Meter
from ptl_prefix.training.module import AdaptationModule
from ptl_prefix.training.notebook_output import LiveOutput, bar_markup, progress_line, table_markup
from ptl_prefix.training.selection import GeneratedMetric


class NotebookProgress(pl.Callback):
    """A bar with step, loss, tokens per second and time left, and a table with a row for each validation.

    Args:
        meter: Counts tokens and seconds.
        metric: Metric of generated texts that has a column beside the validation loss; `None` for none.
    """

    def __init__(self, meter: Meter, metric: GeneratedMetric | None = None) -> None:
        self._meter, self._metric, self._output = meter, metric, LiveOutput()
        self._headings = ["step", meter.loss_key, *([] if metric is None else [metric.key])]
        self._rows: list[list[str]] = []
        self._loss = ""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the bar at the current step."""
        self._began, self._first = time.monotonic(), trainer.global_step
        self._show(trainer)

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: pl.Trainer, pl_module: AdaptationModule, *_: Any
    ) -> None:
        """Move the bar, if what it shows is old enough."""
        self._loss = f"loss {pl_module.last_step.get('train/loss', float('nan')):.3f}"
        if self._output.is_due:
            self._show(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add a row to the table."""
        row = [f"{trainer.global_step}", f"{float(trainer.callback_metrics['val/loss']):.4f}"]
        if self._metric is not None:
            row.append("" if self._metric.value is None else f"{self._metric.value:.4f}")
        self._rows.append(row)
        self._show(trainer)

    def _show(self, trainer: pl.Trainer) -> None:
        done, total = trainer.global_step, trainer.max_steps
        more = [self._loss, f"{self._meter.tokens_per_s:,.0f} tokens/s"] if self._loss else []
        line = progress_line("train", done, total, seconds=time.monotonic() - self._began, first=self._first, more=more)
        markup, text = bar_markup(line, done, total), line
        if self._rows:
            markup += table_markup(self._headings, self._rows)
            text += "".join(f"\n{'  '.join(f'{cell:>8}' for cell in row)}" for row in [self._headings, *self._rows])
        self._output.show(markup, text)
