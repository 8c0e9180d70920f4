"""Measures a joined prefix on the validation split of one task, beside each of the two prefixes alone.

In: the three bundles, attached to one backbone, and a task. Out: `TaskMeasurement`: losses on the same pairs, how much
the joined prefix is worse than the better of the two, and the task's metrics if they are wanted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ptl_prefix.data.encoding import encode_pairs
from ptl_prefix.data.task import Task
from ptl_prefix.errors import DataError
from ptl_prefix.evaluation.decode import DecodingJob, decode
from ptl_prefix.evaluation.evaluate import sample
from ptl_prefix.evaluation.paired_loss import LossDifference, example_losses, loss, loss_difference
from ptl_prefix.evaluation.scoring import score
from ptl_prefix.methods.restore import Adaptation

SUBJECTS = ("joined", "first alone", "second alone")
"""The measured prefixes, in the order of all numbers."""


@dataclass(frozen=True, kw_only=True)
class TaskMeasurement:
    """What was measured on one task.

    Args:
        task: Name of the task.
        num_sampled: Number of examples that were read.
        num_examples: Number of examples with a pair that fits the backbone uncut: those that were measured.
        losses: Loss of each of `SUBJECTS`, in nats per target token.
        better: Which of the two prefixes alone has the lower loss: `first` or `second`.
        difference: Loss of the joined prefix minus that of the better one.
        metrics: Values of each of `SUBJECTS` by metric; empty if none were wanted.
        num_decoded: Number of examples that the metrics are of.
    """

    task: str
    num_sampled: int
    num_examples: int
    losses: tuple[float, ...]
    better: str
    difference: LossDifference
    metrics: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    num_decoded: int = 0

    def is_worse(self, max_loss_increase: float) -> bool:
        """Whether the loss may have risen by more than this: by the upper end of the interval."""
        return not self.difference.high <= max_loss_increase


def measure_task(task: Task, adaptations: Sequence[Adaptation], config: Mapping[str, Any]) -> TaskMeasurement:
    """Measure one task.

    Args:
        task: The task; it has a validation split.
        adaptations: The bundles of `SUBJECTS`, attached to one backbone, with one prompt format.
        config: See `conf/join.yaml`.

    Raises:
        DataError: When no pair of the validation split fits the backbone beside the joined prefix.
    """
    joined = adaptations[0]
    backbone, prompter = joined.backbone, joined.backbone.prompter(joined.bundle.manifest.prompt)
    rows = sample(task, "validation", config["num_examples"]).rows
    reserved = joined.method.position_offset
    pairs = [
        pair for pair, _ in encode_pairs(rows, prompter, max_tokens=backbone.max_positions, reserved_positions=reserved)
    ]
    if not pairs:
        raise DataError(
            f"A validation pair must fit the {backbone.max_positions} positions of {backbone.name} beside the joined "
            f"prefix, but none of {task.name} does; join shorter prefixes."
        )
    statistics = [
        example_losses(backbone, adaptation.method, pairs, prompter, batch_size=config["batch_size"])
        for adaptation in adaptations
    ]
    losses = tuple(loss(losses) for losses in statistics)
    better = 1 if losses[1] <= losses[2] else 2
    metrics, num_decoded = _metrics(task, adaptations, config) if config["metrics"] else ({}, 0)
    return TaskMeasurement(
        task=task.name,
        num_sampled=len(rows),
        num_examples=len(statistics[0]),
        losses=losses,
        better=("first", "second")[better - 1],
        difference=loss_difference(
            statistics[0], statistics[better], resamples=config["resamples"], seed=config["resample_seed"]
        ),
        metrics=metrics,
        num_decoded=num_decoded,
    )


def _metrics(
    task: Task, adaptations: Sequence[Adaptation], config: Mapping[str, Any]
) -> tuple[dict[str, tuple[float, ...]], int]:
    """The task's metrics of each subject, all decoded with the settings of the joined bundle and the same prompts."""
    joined = adaptations[0]
    rows = sample(task, "validation", config["num_decoded"]).rows
    values = []
    for adaptation in adaptations:
        job = DecodingJob(
            backbone=joined.backbone,
            method=adaptation.method,
            prompter=joined.backbone.prompter(joined.bundle.manifest.prompt),
            rows=rows,
            decoding=joined.bundle.manifest.decoding,
            batch_size=config["batch_size"],
            reserved_positions=joined.method.position_offset,
            labels=task.label_set,
        )
        values.append(score(decode(job), task.metrics).values)
    return {name: tuple(each[name] for each in values) for name in values[0]}, len(rows)
