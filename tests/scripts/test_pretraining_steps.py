"""The loop of the pretraining scripts."""

import pytest
import torch
from pretraining_steps import share_of_lr, train
from torch import Tensor, nn


class _Distance(nn.Module):
    """The distance of a parameter from 3."""

    def __init__(self) -> None:
        super().__init__()
        self.point = nn.Parameter(torch.zeros(1))
        self.num_calls = 0

    def forward(self) -> tuple[Tensor, int]:
        self.num_calls += 1
        return (self.point - 3).abs().sum(), 7


def test_it_learns_counts_and_tells_the_way(capsys: pytest.CaptureFixture[str]) -> None:
    model = _Distance()

    logged = train(model, model, steps=250, minutes=5, lr=0.05)

    assert [(loss.step, loss.tokens) for loss in logged] == [(100, 700), (200, 1400), (250, 1750)]
    assert logged[0].loss > logged[1].loss > logged[2].loss
    told = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in told] == ["step 100/250", "step 200/250", "step 250/250"]
    assert told[-1].endswith(" 0.0 min left")


def test_minutes_end_a_run_before_its_steps() -> None:
    model = _Distance()

    train(model, model, steps=10**9, minutes=0.5 / 60, lr=0.05)

    assert 1 < model.num_calls < 10**6


def test_the_rate_rises_and_falls_to_a_hundredth() -> None:
    shares = [share_of_lr(step, step / 1000) for step in range(1001)]

    assert shares[0] == pytest.approx(1 / 200, rel=1e-3)
    assert shares.index(max(shares)) == 199
    assert shares[500] == pytest.approx(0.505, abs=1e-3)
    assert shares[-1] == pytest.approx(0.01)
