"""The inputs of a training: the loaded backbone, and the task's splits as token ids.

In: a `Plan`. Out: `RunInputs`, whose rows leave free the positions that the method needs.
"""

import functools
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console

from ptl_prefix.artifacts.run_record import Ranking
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import Padding
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.data.batches import EvalBatches, TrainBatches
from ptl_prefix.data.encoded_split import EncodedSplit, EncodingReport
from ptl_prefix.data.task import Split
from ptl_prefix.errors import DataError
from ptl_prefix.evaluation.evaluate import sample
from ptl_prefix.training.plan import Plan
from ptl_prefix.training.ranks import ONE_RANK, Ranks
from ptl_prefix.training.stage_progress import stage_progress


@dataclass(frozen=True, kw_only=True)
class RunInputs:
    """Backbone and data of one training.

    Args:
        backbone: Frozen backbone.
        prompter: Turns the task's text into token ids.
        train: Training batches, one epoch per pass, with this rank's rows of each batch.
        validation: Validation batches of this rank, in a fixed order.
        decoded_split: Split that is decoded: the test split, or validation if the task has no test split.
        num_in_decoded_split: Number of inputs in that split.
        decoded_rows: Inputs that are decoded, as the task gives them.
        encoding: Report of each split's encoding.
        training_rows: Encoded training rows in the order of the data, from which a method can start.
        ranking: Batches of the nested subset on which the validations while training measure the loss; `None` if they
            measure it on `validation`.
        selection_rows: Validation inputs that are decoded to choose the best checkpoint; none if its loss is.
    """

    backbone: Backbone
    prompter: Prompter
    train: TrainBatches
    validation: EvalBatches
    decoded_split: Split
    num_in_decoded_split: int
    decoded_rows: Sequence[Mapping[str, Any]]
    encoding: Mapping[Split, EncodingReport]
    training_rows: EncodedSplit
    ranking: EvalBatches | None = None
    selection_rows: Sequence[Mapping[str, Any]] = ()

    def ranking_facts(self, loss: float | None) -> Ranking | None:
        """What the record says of the subset; `None` without one.

        Args:
            loss: Loss of the best checkpoint on it; `None` before there is one.
        """
        if self.ranking is None:
            return None
        examples = self.ranking.examples
        return Ranking(
            num_examples=len(examples),
            num_in_split=len(self.validation.examples),
            examples_sha256=hashlib.sha256(examples.astype("<i8").tobytes()).hexdigest(),
            loss=loss if loss is not None and math.isfinite(loss) else None,
        )


def load_run_inputs(
    plan: Plan,
    ranks: Ranks = ONE_RANK,
    console: Console | None = None,
    *,
    check: Callable[[Backbone], None] = lambda _: None,
    accepts_other_rows: bool = False,
    notify: Callable[[str], None] = lambda text: None,
    load_backbone: Callable[[Plan], Backbone] | None = None,
) -> RunInputs:
    """Load the backbone, and encode the splits or read them from the cache.

    Args:
        plan: Plan of the run.
        ranks: Ranks that train together.
        console: Console for progress; `None` shows none.
        check: Called with the loaded backbone, before the splits are read.
        accepts_other_rows: Whether a resumed run may continue with another number of training rows, in a new epoch.
        notify: Called with each of the task's notes on its data.
        load_backbone: Returns the backbone of a plan, which other runs may share; `None` loads one.
    """
    shown = console is not None and plan.shows_progress and ranks.is_rank_zero
    stages = functools.partial(stage_progress, console or Console(quiet=True), shown=shown)
    backbone = _load_backbone(plan, ranks) if load_backbone is None else load_backbone(plan)
    check(backbone)
    if problems := plan.task.backbone_problems(backbone.identity):
        raise DataError(" ".join(problems))
    prompter = backbone.prompter(plan.task.prompt)

    def encoded(split: Split) -> EncodedSplit:
        with stages(f"encoding the {split} split", unit="examples") as advance:
            return plan.encoded(split, backbone, prompter, advance)

    with ranks.rank_zero_first():
        train, validation = encoded("train"), encoded("validation")
    padding = backbone.padding(prompter)
    decoded_split: Split = "test" if "test" in plan.task.splits else "validation"
    report = validation.report if decoded_split == "validation" else None
    decoded = sample(
        plan.task,
        decoded_split,
        plan.evaluation.num_examples,
        num_in_split=None if report is None else report.num_examples,
    )
    for note in plan.task.notes:
        notify(f"the task {plan.task.name}: {note}")
    return RunInputs(
        backbone=backbone,
        prompter=prompter,
        train=TrainBatches(
            train,
            batch_size=plan.rows_per_batch,
            seed=plan.seed,
            accumulation=plan.accumulation,
            rank_share=ranks.share,
            padding=padding,
            accepts_other_rows=accepts_other_rows,
            layout=plan.row_layout,
        ),
        validation=EvalBatches(
            validation,
            batch_size=plan.data.eval_batch_size,
            num_rows=plan.num_validation_rows(len(validation)),
            rank_share=ranks.share,
            padding=padding,
            layout=plan.validation_layout(backbone),
        ),
        decoded_split=decoded_split,
        num_in_decoded_split=decoded.num_in_split,
        decoded_rows=decoded.rows,
        encoding={"train": train.report, "validation": validation.report},
        training_rows=train,
        ranking=_ranking_batches(plan, validation, padding, backbone, ranks),
        selection_rows=_selection_rows(plan, validation.report.num_examples),
    )


def _ranking_batches(
    plan: Plan, validation: EncodedSplit, padding: Padding, backbone: Backbone, ranks: Ranks
) -> EvalBatches | None:
    """The nested subset of the validation split, if checkpoints are ranked by one."""
    if plan.training.validation_examples is None:
        return None
    return EvalBatches(
        validation,
        batch_size=plan.data.eval_batch_size,
        num_examples=plan.training.validation_examples,
        rank_share=ranks.share,
        padding=padding,
        layout=plan.validation_layout(backbone),
    )


def _selection_rows(plan: Plan, num_in_split: int) -> Sequence[Mapping[str, Any]]:
    """The validation inputs that are decoded to choose the best checkpoint."""
    if plan.training.metric is None:
        return ()
    return sample(plan.task, "validation", plan.training.select_examples, num_in_split=num_in_split).rows


def _load_backbone(plan: Plan, ranks: Ranks) -> Backbone:
    """The backbone on its device; with sharding, this rank's shard of it."""
    if not plan.is_sharded or ranks.num_ranks == 1:
        return plan.backbone.load()
    # On the CPU first: the whole backbone may not fit on the device.
    backbone = plan.backbone.load(on=torch.device("cpu"))
    backbone.shard(plan.backbone.torch_device)
    return backbone
