"""The settings of a training that belong to neither Lightning's Trainer nor the optimizer: which checkpoints count.

In: the values of `conf/training`. Out: `TrainingSettings`, and the problems of a task that lacks the chosen metric.
"""

from typing import Annotated

from annotated_types import Ge, MinLen

from ptl_prefix.data.task import Task
from ptl_prefix.evaluation.evaluate import SPLIT_NAMES
from ptl_prefix.evaluation.metric import load_metric, metric_name_mistakes
from ptl_prefix.settings import settings_from

LOSS = f"{SPLIT_NAMES['validation']}/loss"
"""The metric of every validation."""

SUBSET_LOSS = f"{SPLIT_NAMES['validation']}/subset_loss"
"""The metric of every validation on some examples. It is never compared with `LOSS`, which is of others."""


class TrainingSettings:
    """Which checkpoint is the best one, and how many of the newest ones are kept.

    Args:
        select_by: Metric that chooses the best checkpoint, which early stopping follows, too: `val/loss`, or
            `val/<metric>` with a metric of the task, which is computed from generated texts.
        select_every: Number of validations between two decodings for such a metric; the last validation decodes, too.
        select_examples: Number of validation inputs that are decoded for it, evenly spread over the split and the same
            ones every time; `None` is all.
        validation_examples: Number of validation examples on which each validation while training measures the loss,
            which ranks checkpoints and the trials of a study; the best checkpoint is then measured on the whole split.
            The examples of a smaller number are among those of a larger one, and the same for every seed. `None` is
            the whole split.
        keep_last: Number of newest checkpoints that are kept, `last.ckpt` included.
    """

    @settings_from("training/default")
    def __init__(
        self,
        *,
        select_by: Annotated[str, MinLen(1)],
        select_every: Annotated[int, Ge(1)],
        select_examples: Annotated[int, Ge(1)] | None,
        validation_examples: Annotated[int, Ge(1)] | None,
        keep_last: Annotated[int, Ge(1)],
    ) -> None:
        self.select_by = select_by
        self.select_every = select_every
        self.select_examples = select_examples
        self.validation_examples = validation_examples
        self.keep_last = keep_last

    @property
    def loss_key(self) -> str:
        """The key of the loss that a validation while training measures."""
        return LOSS if self.validation_examples is None else SUBSET_LOSS

    @property
    def metric(self) -> str | None:
        """The name of the metric of generated texts that chooses the best checkpoint; `None` for `val/loss`."""
        return None if self.select_by == LOSS else self.select_by.partition("/")[2]

    def num_decodings(self, num_validations: int) -> int:
        """How often a run with so many validations decodes for the metric."""
        return 0 if self.metric is None else -(-num_validations // self.select_every)


def selection_problems(training: TrainingSettings | None, task: Task | None) -> list[str]:
    """Why a task's validation split cannot have the metric that shall choose the best checkpoint.

    Args:
        training: Choice of the best checkpoint; `None` if it has problems of its own.
        task: Task; `None` likewise.
    """
    if training is None or task is None:
        return []
    if metric_name_mistakes(task.metrics, "task.metrics"):
        return []  # these have sentences of their own
    available = [LOSS, *(f"{SPLIT_NAMES['validation']}/{name}" for name in task.metrics)]
    if training.select_by not in available:
        return [
            f"`training.select_by` must be a metric of the validation split that the task {task.name} has "
            f"({', '.join(available)}), but is {training.select_by!r}."
        ]
    reason = None if training.metric is None else load_metric(training.metric).unavailable_reason
    if reason is None:
        return []
    return [
        f"`training.select_by` must be a metric that this machine can compute, but is {training.select_by}: {reason}"
    ]
