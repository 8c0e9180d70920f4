"""Everything that one training needs, as finished objects, and what follows from it before anything is computed.

In: what a config was built into. Out: `Plan`, with the number of steps and the room for text, which training and a dry
    run share.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.backbones.spec import BackboneSpec
from ptl_prefix.data.batches import num_batches
from ptl_prefix.data.encoded_split import EncodedSplit
from ptl_prefix.data.encoding import encode_split
from ptl_prefix.data.settings import DataSettings
from ptl_prefix.data.task import Split, Task
from ptl_prefix.evaluation.evaluate import EvaluationSettings
from ptl_prefix.methods.method import Method
from ptl_prefix.tracking.tracking import Tracking
from ptl_prefix.training.optimization import Optimization
from ptl_prefix.training.plan_problems import plan_problems


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One training.

    Args:
        seed: Of initialisation, batch order and dropout.
        run_id: Names the run.
        backbone: Which backbone.
        task: What is learned.
        method: How the backbone is adapted; not attached yet.
        batches: How examples become batches.
        optimization: How parameters move.
        trainer: Arguments of Lightning's `Trainer`, by its own names.
        decoding: How text is generated.
        evaluation: What is decoded at the end.
        tracking: Who is told what happens, besides the disk.
        config: The resolved config all of this was built from, for the record.
    """

    seed: int
    run_id: str
    backbone: BackboneSpec
    task: Task
    method: Method
    batches: DataSettings
    optimization: Optimization
    trainer: Mapping[str, Any]
    decoding: Decoding
    evaluation: EvaluationSettings
    tracking: Tracking
    config: Mapping[str, Any]

    def __post_init__(self) -> None:
        self.method.provide_labels(lambda: self.task.label_set)

    def problems(self) -> list[str]:
        """Every way in which the parts do not fit together, one sentence each; found before any weights load."""
        return plan_problems(
            trainer=self.trainer,
            backbone=self.backbone,
            method=self.method,
            task=self.task,
            decoding=self.decoding,
        )

    def encoded(self, split: Split, backbone: Backbone, prompter: Prompter) -> EncodedSplit:
        """One of the task's splits as ids, with room in every row for what the method takes."""
        return encode_split(
            self.task,
            split,
            prompter,
            max_tokens=backbone.max_positions,
            taken=self.method.reserved_positions(backbone),
            settings=self.batches,
        )

    @property
    def shows_progress(self) -> bool:
        """Whether a person is told how it goes."""
        return self.trainer.get("enable_progress_bar") is not False

    @property
    def is_sharded(self) -> bool:
        """Whether the frozen weights are divided among the devices."""
        return self.trainer.get("strategy") == "fsdp"

    @property
    def scales_loss(self) -> bool:
        """Whether forward and backward are in float16, of a loss that is scaled up."""
        return self.trainer.get("precision") == "16-mixed"

    @property
    def accumulation(self) -> int:
        """Batches in one optimizer step."""
        return int(self.trainer.get("accumulate_grad_batches") or 1)

    @property
    def num_ranks(self) -> int:
        """Devices that train together, each driven by a process of its own."""
        return int(self.trainer.get("devices") or 1) * int(self.trainer.get("num_nodes") or 1)

    @property
    def rows_per_batch(self) -> int:
        """Rows of a batch, on all devices together. A run that goes on with fewer or more devices keeps it."""
        return self.batches.batch_size * self.num_ranks

    def batches_per_epoch(self, num_rows: int) -> int:
        """Batches in which every training row comes once."""
        return num_batches(num_rows, batch_size=self.rows_per_batch, accumulation=self.accumulation)

    def num_steps(self, batches_per_epoch: int) -> int:
        """Optimizer steps of the run, from `max_steps` or `max_epochs`, whichever ends first."""
        steps, epochs = int(self.trainer.get("max_steps", -1)), self.trainer.get("max_epochs")
        limits = [] if steps == -1 else [steps]
        if epochs is not None and epochs != -1:
            limits.append(math.ceil(epochs * batches_per_epoch / self.accumulation))
        return min(limits)

    def val_check_interval(self, batches_per_epoch: int) -> int:
        """Training batches between validations: whole steps, as a checkpoint must not split an accumulation window."""
        interval = self.trainer.get("val_check_interval")
        interval = 1.0 if interval is None else interval
        batches = max(1, int(interval * batches_per_epoch)) if isinstance(interval, float) else interval
        return self.accumulation * math.ceil(batches / self.accumulation)

    def num_validation_rows(self, rows: int) -> int:
        """How many of a split's rows are validated: `limit_val_batches`, as batches or as a share of them."""
        limit = self.trainer.get("limit_val_batches")
        limit = 1.0 if limit is None else limit
        return (
            max(1, round(limit * rows)) if isinstance(limit, float) else min(rows, limit * self.batches.eval_batch_size)
        )
