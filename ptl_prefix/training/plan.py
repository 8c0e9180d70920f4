"""The plan of one training: all of its parts as built objects.

In: objects built from a config. Out: a `Plan`, with the numbers of steps, batches and rows that training and the dry
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
from ptl_prefix.data.batches import PLAIN, RowLayout, batches_per_epoch
from ptl_prefix.data.encoded_split import EncodedSplit
from ptl_prefix.data.encoding import OnProgress, encode_split
from ptl_prefix.data.settings import DataSettings
from ptl_prefix.data.task import Split, Task
from ptl_prefix.evaluation.evaluate import EvaluationSettings
from ptl_prefix.methods.method import Method
from ptl_prefix.tracking.tracking import Tracking
from ptl_prefix.training.optimization import Optimization
from ptl_prefix.training.plan_problems import packing_refusals, plan_problems, start_inputs
from ptl_prefix.training.settings import TrainingSettings


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Plan of one training.

    Args:
        seed: Seed of initialisation, batch order and dropout.
        run_id: Name of the run.
        backbone: Settings of the backbone.
        task: Task to learn.
        method: Method, not attached yet.
        data: Settings of encoding and batches.
        optimization: Optimizer, schedule and early stopping.
        trainer: Arguments of Lightning's `Trainer`, by its own names.
        decoding: Settings of text generation.
        evaluation: Settings of the evaluation at the end.
        training: Choice of the best checkpoint, and the number of checkpoints that are kept.
        tracking: Loggers besides the run folder.
        routing: What the bundle says of the task's texts, so that a server recognises them: `none`, `ngrams` (hashed
            counts of the inputs), or `hidden_states` (the counts, and the bare backbone's mean hidden states).
        config: Resolved config that the plan was built from, for the record.
    """

    seed: int
    run_id: str
    backbone: BackboneSpec
    task: Task
    method: Method
    data: DataSettings
    optimization: Optimization
    trainer: Mapping[str, Any]
    decoding: Decoding
    evaluation: EvaluationSettings
    training: TrainingSettings
    tracking: Tracking
    routing: str
    config: Mapping[str, Any]

    def __post_init__(self) -> None:
        self.method.provide_start_inputs(start_inputs(self.task))

    def problems(self) -> list[str]:
        """Every way in which the parts do not fit together, one sentence each; found before any weights load."""
        return plan_problems(
            trainer=self.trainer,
            backbone=self.backbone,
            method=self.method,
            task=self.task,
            data=self.data,
            decoding=self.decoding,
            routing=self.routing,
            training=self.training,
            optimization=self.optimization,
        )

    def encoded(
        self,
        split: Split,
        backbone: Backbone,
        prompter: Prompter,
        on_progress: OnProgress = lambda num_examples, share_read: None,
    ) -> EncodedSplit:
        """A split of the task as token ids; each row leaves free the positions that the method reserves."""
        return encode_split(
            self.task,
            split,
            prompter,
            max_tokens=backbone.max_positions,
            reserved_positions=self.method.reserved_positions(backbone),
            settings=self.data,
            on_progress=on_progress,
        )

    @property
    def shows_progress(self) -> bool:
        """Whether progress is shown on the console."""
        return self.trainer.get("enable_progress_bar") is not False

    @property
    def is_sharded(self) -> bool:
        """Whether the frozen weights are sharded among the devices."""
        return self.trainer.get("strategy") == "fsdp"

    @property
    def scales_loss(self) -> bool:
        """Whether training runs in float16 with loss scaling."""
        return self.trainer.get("precision") == "16-mixed"

    @property
    def trains_nothing(self) -> bool:
        """Whether the run has no step, so that its bundle is the method's start."""
        return bool(self.trainer.get("max_steps") == 0)

    @property
    def accumulation(self) -> int:
        """Batches in one optimizer step."""
        return int(self.trainer.get("accumulate_grad_batches") or 1)

    @property
    def num_ranks(self) -> int:
        """Number of ranks: processes that train together, one per device."""
        return int(self.trainer.get("devices") or 1) * int(self.trainer.get("num_nodes") or 1)

    @property
    def rows_per_batch(self) -> int:
        """Rows of a batch over all devices; a run that is resumed on fewer or more devices keeps this number."""
        return self.data.batch_size * self.num_ranks

    @property
    def row_layout(self) -> RowLayout:
        """What shares a row of a training batch."""
        return RowLayout(packing=self.data.packing, share_sources=self.data.share_sources)

    def validation_layout(self, backbone: Backbone) -> RowLayout:
        """What shares a row in validation: the targets of an example, wherever a row can hold several texts."""
        return PLAIN if packing_refusals(backbone, self.method, self.task) else RowLayout(share_sources=True)

    def batches_per_epoch(self, encoded: EncodedSplit) -> int:
        """Number of batches in one epoch of the training split."""
        return batches_per_epoch(
            encoded, batch_size=self.rows_per_batch, accumulation=self.accumulation, layout=self.row_layout
        )

    def num_steps(self, batches_per_epoch: int) -> int:
        """Optimizer steps of the run, from `max_steps` or `max_epochs`, whichever ends first."""
        steps, epochs = int(self.trainer.get("max_steps", -1)), self.trainer.get("max_epochs")
        limits = [] if steps == -1 else [steps]
        if epochs is not None and epochs != -1:
            limits.append(math.ceil(epochs * batches_per_epoch / self.accumulation))
        return min(limits)

    def val_check_interval(self, batches_per_epoch: int) -> int:
        """Training batches between validations, rounded up to whole steps: checkpoints need complete accumulation."""
        interval = self.trainer.get("val_check_interval")
        interval = 1.0 if interval is None else interval
        batches = max(1, int(interval * batches_per_epoch)) if isinstance(interval, float) else interval
        return self.accumulation * math.ceil(batches / self.accumulation)

    def num_validations(self, batches_per_epoch: int) -> int:
        """Number of validations of the whole run; there is one after the last step, too."""
        batches = self.num_steps(batches_per_epoch) * self.accumulation
        return math.ceil(batches / self.val_check_interval(batches_per_epoch))

    def num_validation_rows(self, rows: int) -> int:
        """Number of validation rows by `limit_val_batches`, which is a number or a share of the batches."""
        limit = self.trainer.get("limit_val_batches")
        limit = 1.0 if limit is None else limit
        return max(1, round(limit * rows)) if isinstance(limit, float) else min(rows, limit * self.data.eval_batch_size)
