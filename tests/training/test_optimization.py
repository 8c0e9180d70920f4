import pytest
import torch
from torch import nn

from ptl_prefix.training.optimization import Optimization


def learning_rates(optimization: Optimization, total_steps: int) -> list[float]:
    """The learning rate with which each step is taken, as an optimizer meets it."""
    optimizer = optimization.optimizer([(0.3, [nn.Parameter(torch.ones(1))])])
    scheduler = optimization.scheduler(optimizer, total_steps)
    rates = []
    for _ in range(total_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("warmup_steps", "schedule", "total_steps", "tenths"),
    [
        (4, "linear", 9, [2.5, 5, 7.5, 10, 10, 8, 6, 4, 2]),
        (0, "linear", 5, [10, 8, 6, 4, 2]),
        (2, "constant", 5, [5, 10, 10, 10, 10]),
        (0, "constant", 3, [10, 10, 10]),
        (2, "cosine", 6, [5, 10, 10, 5 + 5 * 0.5**0.5, 5, 5 - 5 * 0.5**0.5]),
        (0, "cosine", 2, [10, 5]),
        (1, "linear", 3, [10, 10, 5]),
        (4, "linear", 2, [2.5, 5]),  # ended before the warm-up
        (3, "linear", 3, [10 / 3, 20 / 3, 10]),  # nothing to decay over
    ],
)
def test_learning_rate_of_each_step(warmup_steps: int, schedule: str, total_steps: int, tenths: list[float]) -> None:
    optimization = Optimization(lr=0.1, warmup_steps=warmup_steps, schedule=schedule)

    rates = learning_rates(optimization, total_steps)

    assert rates == pytest.approx([0.01 * rate for rate in tenths])


def test_no_step_is_taken_in_vain() -> None:
    rates = learning_rates(Optimization(lr=0.1, warmup_steps=50, schedule="linear"), 400)

    assert min(rates) > 0
    assert max(rates) == pytest.approx(0.1)
    assert rates[-1] == pytest.approx(0.1 / 350)


def test_the_optimizer_is_adamw_with_these_settings() -> None:
    optimization = Optimization(lr=0.1, weight_decay=0.5, betas=[0.8, 0.9], warmup_steps=0, schedule="constant")

    optimizer = optimization.optimizer([(0.3, [nn.Parameter(torch.ones(1))])])

    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.defaults["betas"] == (0.8, 0.9)
    assert optimizer.defaults["weight_decay"] == 0.5


@pytest.mark.parametrize("betas", [[0.9], [0.9, 0.99, 0.999]])
def test_adam_has_two_moments(betas: list[float]) -> None:
    (problem,) = Optimization(betas=betas).problems()

    assert "`optimizer.betas` must be two numbers" in problem
    assert Optimization().problems() == []


def test_where_no_rate_is_chosen_the_method_s_own_is_used() -> None:
    (chosen,) = Optimization(lr=0.1).optimizer([(0.3, [nn.Parameter(torch.ones(1))])]).param_groups
    (default,) = Optimization().optimizer([(0.3, [nn.Parameter(torch.ones(1))])]).param_groups

    assert (chosen["lr"], default["lr"]) == (0.1, 0.3)
