"""What a training says of itself when it ends, however it ends."""

from collections.abc import Mapping

import torch

from ptl_prefix.artifacts.fingerprint import environment
from ptl_prefix.artifacts.run_record import Cost, MetricInfo, Parameters, RunRecord, Status
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.training.meter import Meter, peak_memory_bytes
from ptl_prefix.training.plan import Plan

LOSS_INFO = MetricInfo(scale="nats per target token", direction="minimize", version="1", library=f"torch {torch.__version__}")
"""What `val/loss` means: a sum over the targets of the split, each one's end included, divided by their number."""


def record_of(
    plan: Plan,
    status: Status,
    backbone: Backbone | None,
    meter: Meter,
    steps: int,
    metrics: Mapping[str, float],
    metric_info: Mapping[str, MetricInfo],
) -> RunRecord:
    """The record of a run as it stands. A backbone that never loaded has no parameters to count."""
    is_adapted = backbone is not None and plan.method.is_attached
    return RunRecord(
        run_id=plan.run_id,
        status=status,
        task=plan.task.name,
        task_version=plan.task.version,
        backbone=plan.backbone.name,
        method=plan.method.name,
        seed=plan.seed,
        config=dict(plan.config),
        study=None,
        trial=None,
        budget={"steps": plan.trainer["max_steps"]} if plan.trainer.get("max_steps", -1) != -1 else None,
        parameters=Parameters(
            trained=plan.method.num_trained if is_adapted else 0,
            stored=plan.method.num_stored if is_adapted else 0,
            backbone=backbone.num_parameters if backbone is not None else 0,
        ),
        cost=Cost(
            train_s=meter.train_s,
            steps=steps,
            tokens=meter.num_tokens,
            tokens_per_s=meter.tokens_per_s,
            peak_memory_bytes=peak_memory_bytes(torch.device("cpu") if backbone is None else backbone.device),
        ),
        decoding=plan.decoding,
        metrics=dict(metrics),
        metric_info=dict(metric_info),
        environment=environment(),
    )
