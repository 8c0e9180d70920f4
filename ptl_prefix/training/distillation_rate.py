"""The learning rate of keys and values that match a teacher, from the number of target tokens in a step.

In: target tokens of an optimizer step. Out: a learning rate. Eyuboglu et al. (2025) train a prefix at 2e-2 with 65,000
supervised tokens in each step; at 1,000 tokens that rate makes a prefix worse within some steps, and 2e-3 does not.
Between the two the rate is on a line in logarithms, and beyond them it is that of the nearer one.
"""

import math

from ptl_prefix.data.encoded_split import EncodedSplit
from ptl_prefix.training.plan import Plan

_FEW, _LR_OF_FEW = 1024, 2e-3
_MANY, _LR_OF_MANY = 65536, 2e-2


def distillation_lr(tokens_per_step: float) -> float:
    """The learning rate for a number of target tokens in a step."""
    share = math.log(tokens_per_step / _FEW) / math.log(_MANY / _FEW)
    return _LR_OF_FEW * math.pow(_LR_OF_MANY / _LR_OF_FEW, min(max(share, 0.0), 1.0))


def tokens_per_step(plan: Plan, train: EncodedSplit) -> float:
    """The target tokens of an optimizer step, on average, over all ranks."""
    rows = min(plan.rows_per_batch * plan.accumulation, len(train))
    return rows * train.num_target_ids / len(train)


def derived_lr(plan: Plan, train: EncodedSplit) -> float | None:
    """The learning rate of a plan that sets none and matches a teacher; `None` for other plans, or without steps."""
    if plan.trains_nothing or plan.optimization.lr is not None:
        return None
    if not plan.task.has_teacher or not plan.method.trains_keys_and_values:
        return None
    return distillation_lr(tokens_per_step(plan, train))


def rate_notes(plan: Plan, train: EncodedSplit) -> list[str]:
    """A sentence about the learning rate, if it is derived."""
    lr = derived_lr(plan, train)
    if lr is None:
        return []
    return [
        f"The learning rate is {lr:.2g}, by the {tokens_per_step(plan, train):,.0f} target tokens of a step "
        f"({_LR_OF_FEW:g} at {_FEW:,}, {_LR_OF_MANY:g} at {_MANY:,}); `optimizer.lr` sets another one."
    ]
