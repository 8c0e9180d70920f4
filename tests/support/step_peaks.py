"""Measures the peak memory of a real training step, to compare the estimate of a dry run with it.

In: a plan, and its backbone with weights. Out: bytes, as torch's allocator on the CPU was asked for them.
"""

import torch

from benchmarks.allocations import count_allocations
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import Padding
from ptl_prefix.data.batches import EvalBatches
from ptl_prefix.evaluation.loss import target_loss
from ptl_prefix.training.plan import Plan
from ptl_prefix.training.ranks import ONE_RANK, Ranks


def measured_peak(plan: Plan, backbone: Backbone, ranks: Ranks = ONE_RANK) -> int:
    """Peak bytes of a step besides weights, trainable parameters and Adam's moments."""
    prompter = backbone.prompter(plan.task.prompt)
    encoded = plan.encoded("train", backbone, prompter)
    batch = next(iter(EvalBatches(encoded, batch_size=plan.data.batch_size, padding=Padding(backbone.pad_id))))
    method = plan.method.attach(backbone)
    trained = list(method.trainable_parameters().values())
    optimizer = torch.optim.AdamW(trained, lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        for _ in range(plan.accumulation):
            target_loss(backbone, method, batch).nats.backward()
        ranks.sum_gradients(trained)
        optimizer.step()

    step()  # from here on there are moments, and kernels
    optimizer.zero_grad()
    backbone.slots.clear()
    peak = count_allocations(lambda: step).peak
    method.detach()
    return peak
