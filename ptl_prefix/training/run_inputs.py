"""What a training works on: the loaded backbone, and its task's splits as ids.

In: a `Plan`. Out: `RunInputs`, with room in every row for what the method takes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.data.batches import EvalBatches, TrainBatches
from ptl_prefix.data.encoded_split import EncodingReport
from ptl_prefix.data.task import Split
from ptl_prefix.training.plan import Plan
from ptl_prefix.training.ranks import ONE_RANK, Ranks


@dataclass(frozen=True, kw_only=True)
class RunInputs:
    """One training's backbone and data.

    Args:
        backbone: The frozen model.
        prompter: Turns its task's text into ids.
        train: Training batches, an epoch at each pass; of each batch this rank's rows.
        validation: The validated rows, in a fixed order; this rank's batches.
        decoded_split: The split that is decoded: the test split, or validation where a task has no other.
        num_in_decoded_split: How many inputs that has.
        decoded_rows: The inputs of it that are decoded, as the task gives them.
        encoding: What encoding did to each split.
    """

    backbone: Backbone
    prompter: Prompter
    train: TrainBatches
    validation: EvalBatches
    decoded_split: Split
    num_in_decoded_split: int
    decoded_rows: Sequence[Mapping[str, Any]]
    encoding: Mapping[str, EncodingReport]


def load_run_inputs(plan: Plan, ranks: Ranks = ONE_RANK) -> RunInputs:
    """Load the backbone, and encode the splits or find them encoded."""
    backbone = _loaded(plan, ranks)
    prompter = backbone.prompter(plan.task.prompt)
    with ranks.first_goes_first():
        train = plan.encoded("train", backbone, prompter)
        validation = plan.encoded("validation", backbone, prompter)
    padding = backbone.padding(prompter)
    decoded_split: Split = "test" if "test" in plan.task.splits else "validation"
    decodable = plan.task.examples(decoded_split)
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
        ),
        validation=EvalBatches(
            validation,
            batch_size=plan.batches.eval_batch_size,
            num_rows=plan.num_validation_rows(len(validation)),
            rank_share=ranks.share,
            padding=padding,
        ),
        decoded_split=decoded_split,
        num_in_decoded_split=len(decodable),
        decoded_rows=plan.evaluation.sample(decodable),
        encoding={"train": train.report, "validation": validation.report},
    )


def _loaded(plan: Plan, ranks: Ranks) -> Backbone:
    """The backbone on its device; where the plan shards it, this rank's share of it."""
    if not plan.is_sharded or ranks.number == 1:
        return plan.backbone.load()
    # On the CPU first: it need not fit the device as a whole.
    backbone = plan.backbone.load(on=torch.device("cpu"))
    backbone.shard(plan.backbone.torch_device)
    return backbone
