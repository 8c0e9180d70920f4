"""Some steps of training, for benchmarks that time them, or that need a method which has learned something.

In: a backbone, an attached method and batches. Out: the method's parameters are trained.
"""

from collections.abc import Iterable

from torch.optim import Optimizer

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.evaluation.loss import target_loss
from ptl_prefix.methods.method import Method


def train_steps(backbone: Backbone, method: Method, batches: Iterable[ModelInputs], optimizer: Optimizer) -> int:
    """Take a step on each batch; return the number of target tokens of all."""
    num_tokens = 0
    for batch in batches:
        loss = target_loss(backbone, method, batch)
        (loss.nats / loss.num_tokens).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        num_tokens += loss.num_tokens
    return num_tokens
