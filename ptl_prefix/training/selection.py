"""The choice of the best checkpoint by a metric of generated texts.

In: the run's inputs, and the metric that `training.select_by` names. Out: its value at every k-th validation, as
`selection` events, and whether the checkpoint of that validation is the best one so far. The decoded inputs are the
same ones every time, and decoding leaves the random state as it is: training is bit for bit the same with and without.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch

from ptl_prefix.artifacts.run_record import Selection
from ptl_prefix.data.task import Task
from ptl_prefix.errors import DataError
from ptl_prefix.evaluation.decode import prediction_of
from ptl_prefix.evaluation.metric import metric_info
from ptl_prefix.evaluation.scoring import score
from ptl_prefix.tracking.events import EventStream
from ptl_prefix.training.decoding import decode_rows
from ptl_prefix.training.plan import Plan
from ptl_prefix.training.ranks import ONE_RANK, Ranks
from ptl_prefix.training.run_inputs import RunInputs

_Quality = tuple[float, float]
"""The metric and the validation loss of a checkpoint, both the better the higher."""
_WORST: _Quality = (-math.inf, -math.inf)


class GeneratedMetric(pl.Callback):
    """Computes a metric of generated texts at every k-th validation and at the last one, and finds the best one.

    Of equal values, that with the lower `val/loss` is better. A value that is not finite or cannot be computed is worse
    than every other one, and the run continues.

    Args:
        plan: Plan of the run, whose `training` names the metric.
        inputs: Inputs of the run.
        events: Receives `selection` events.
        ranks: Ranks that train together: they share the inputs, and rank 0 computes the metric for all.
        notify: Called with a sentence when the metric could not be computed.
    """

    def __init__(
        self,
        plan: Plan,
        inputs: RunInputs,
        events: EventStream,
        ranks: Ranks = ONE_RANK,
        notify: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        assert plan.training.metric is not None, "`val/loss` needs no decoding"
        self.key, self._metric = plan.training.select_by, plan.training.metric
        self._plan, self._inputs, self._events = plan, inputs, events
        self._ranks, self._notify = ranks, notify
        self.info = metric_info(self._metric)
        self.value: float | None = None
        """The value of the newest validation; `None` if it has none."""
        self.is_best = False
        """Whether the checkpoint of the newest validation is the best one so far."""
        self.seconds = 0.0
        self._reason: str | None = None
        self._num_validations = 0
        self._has_decoded = False
        self._best: _Quality = _WORST
        self._best_value: float | None = None
        self._best_step = 0

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Decode if it is due, and add the value to Lightning's metrics, where early stopping finds it."""
        self._num_validations += 1
        is_due = self._num_validations % self._plan.training.select_every == 0 or trainer.should_stop
        self.value, self._reason, self._has_decoded = None, None, bool(is_due)
        if not is_due:
            return
        began = time.perf_counter()
        self.value, self._reason = self._measure()
        self.seconds += time.perf_counter() - began
        if self.value is not None:
            pl_module.log(self.key, torch.tensor(self.value, dtype=torch.float64))

    def _measure(self) -> tuple[float | None, str | None]:
        """The value, or the reason why there is none; the same on all ranks."""
        plan, inputs = self._plan, self._inputs
        predictions = decode_rows(plan, inputs, self._ranks, method=plan.method, rows=inputs.selection_rows)

        def measure() -> tuple[float | None, str | None]:
            scores = score(predictions, [self._metric])
            value = scores.values.get(self._metric)
            if value is None:
                return None, scores.skipped[self._metric]
            return (value, None) if math.isfinite(value) else (None, f"it is {value}")

        return self._ranks.from_rank_zero(measure)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Decide whether this checkpoint is the best one so far, and log the value."""
        self.is_best = False
        if not self._has_decoded:
            return
        quality = self._quality(float(trainer.callback_metrics["val/loss"]))
        self.is_best = quality > self._best
        if self.is_best:
            self._best, self._best_value, self._best_step = quality, self.value, trainer.global_step
        if self._reason is not None:
            self._notify(f"{self.key} of step {trainer.global_step} is skipped: {self._reason}")
        found = {"skipped": self._reason} if self.value is None else {self.key: self.value}
        self._events.write(
            "selection",
            step=trainer.global_step,
            **found,
            is_best=self.is_best,
            selection_s=round(self.seconds, 3),
        )

    def _quality(self, loss: float) -> _Quality:
        sign = 1 if self.info.direction == "maximize" else -1
        return (-math.inf if self.value is None else sign * self.value, -loss)

    @property
    def selection(self) -> Selection:
        """The choice so far, for the record."""
        return Selection(
            metric=self.key,
            value=self._best_value,
            step=self._best_step,
            num_examples=len(self._inputs.selection_rows),
            decode_s=self.seconds,
        )

    def state_dict(self) -> dict[str, Any]:
        """The best value so far, the number of validations, and the seconds of decoding."""
        return {
            "num_validations": self._num_validations,
            "seconds": self.seconds,
            "best": list(self._best),
            "best_value": self._best_value,
            "best_step": self._best_step,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them."""
        self._num_validations, self.seconds = state_dict["num_validations"], state_dict["seconds"]
        self._best = (state_dict["best"][0], state_dict["best"][1])
        self._best_value, self._best_step = state_dict["best_value"], state_dict["best_step"]


def require_measurable(task: Task, metric: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Require that a metric can be computed on validation inputs, whatever will be generated for them.

    Raises:
        DataError: If it cannot; the message has the metric's reason.
    """
    skipped = score([prediction_of(row, row["targets"][0]) for row in rows], [metric]).skipped
    if skipped:
        raise DataError(
            f"`training.select_by` must be a metric that the validation split of {task.name} has the parts for, but "
            f"val/{metric} cannot be computed: {skipped[metric]}; choose another one, or val/loss."
        )
