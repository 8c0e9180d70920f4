"""Decoding during a training: the rows are shared among the ranks, and every rank gets all predictions.

In: a plan, its inputs and some rows of its task. Out: one `Prediction` for each row, decoded as the run is configured.
"""

from collections.abc import Callable
from typing import Any

from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.evaluation.decode import DecodingJob, Rows, decode
from ptl_prefix.methods.method import Method
from ptl_prefix.training.plan import Plan
from ptl_prefix.training.ranks import Ranks
from ptl_prefix.training.run_inputs import RunInputs


def decode_rows(
    plan: Plan,
    inputs: RunInputs,
    ranks: Ranks,
    *,
    method: Method,
    rows: Rows,
    on_batch: Callable[[list[Prediction]], None] = lambda predictions: None,
) -> list[Prediction]:
    """Decode rows with a method; all ranks must call this.

    Args:
        plan: Plan of the run.
        inputs: Inputs of the run.
        ranks: Ranks that train together.
        method: Method, attached to the backbone; `NoAdaptation` for the bare backbone.
        rows: Examples, as the task gives them.
        on_batch: Callback that receives the predictions of each batch of this rank.
    """
    # Sharded layers compute on all ranks together, and ranks with different batches would generate texts of
    # different lengths: with sharding each rank decodes everything.
    sharing: Any = {} if inputs.backbone.is_sharded else {"rank_share": ranks.share, "gather": ranks.merge}
    job = DecodingJob(
        backbone=inputs.backbone,
        method=method,
        prompter=inputs.prompter,
        rows=rows,
        decoding=plan.decoding,
        batch_size=plan.data.eval_batch_size,
        # The same for the bare backbone, so that both get the same prompts.
        reserved_positions=plan.method.reserved_positions(inputs.backbone),
        labels=plan.task.label_set,
    )
    return decode(job, on_batch=on_batch, **sharing)
