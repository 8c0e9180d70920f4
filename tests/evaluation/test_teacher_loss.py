"""The cross-entropy to a teacher equals one that is written out in float64, however its rows are batched."""

import math

import pytest
import torch
from support.tiny_runs import TinyRuns
from torch import Tensor

from ptl_prefix.artifacts.self_study import TeacherTokens
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs, Padding
from ptl_prefix.data.collation import EncodedRow, collate_training
from ptl_prefix.errors import DataError
from ptl_prefix.evaluation.loss import target_loss
from ptl_prefix.evaluation.paired_loss import example_losses
from ptl_prefix.methods.method import Method

PADDING = Padding(1)
SIZES = ((5, 7), (9, 2), (1, 12))
"""Tokens of each row's prompt and target."""


def rows() -> list[EncodedRow]:
    generator = torch.Generator().manual_seed(0)
    return [
        EncodedRow(
            input_ids=torch.randint(2, 8192, (source + target,), generator=generator).tolist(),
            num_source_ids=source,
            example=index,
        )
        for index, (source, target) in enumerate(SIZES)
    ]


def teacher(example: int) -> TeacherTokens:
    """Each example has kept another number of tokens, and fewer of them at every second place."""
    source, num_target = SIZES[example]
    generator = torch.Generator().manual_seed(example)
    shape = (num_target, 2 + example)
    ids = torch.randint(2, 8192, shape, generator=generator, dtype=torch.int32)
    log_probs = torch.randn(shape, generator=generator).log_softmax(-1) - 0.1
    ids[::2, 1:], log_probs[::2, 1:] = -1, -math.inf
    return TeacherTokens(
        token_ids=torch.tensor(rows()[example]["input_ids"][source:], dtype=torch.int32),
        top_ids=ids,
        top_log_probs=log_probs,
    )


def written_out(backbone: Backbone, method: Method) -> list[float]:
    """Each row's loss, row by row and without padding: the sum over tokens of probability times surprise."""
    losses = []
    for row in rows():
        ids = torch.tensor([row["input_ids"]])
        inputs = method.condition(ModelInputs(ids, torch.ones_like(ids)))
        log_probs: Tensor = backbone.logits(inputs)[0].double().log_softmax(-1)
        tokens, start = teacher(row["example"]), row["num_source_ids"]
        losses.append(
            sum(
                -math.exp(log_prob) * float(log_probs[start + place - 1, token])
                for place in range(len(tokens.token_ids))
                for token, log_prob in zip(
                    tokens.top_ids[place].tolist(), tokens.top_log_probs[place].tolist(), strict=True
                )
                if token >= 0
            )
        )
    return losses


@torch.no_grad()
def test_the_loss_equals_the_written_out_one_padded_or_alone(tiny_runs: TinyRuns) -> None:
    plan, backbone = tiny_runs.attached()
    method = plan.method.eval()
    wanted = written_out(backbone, method)

    together = target_loss(backbone, method, collate_training(rows(), PADDING, teacher))
    alone = [target_loss(backbone, method, collate_training([row], PADDING, teacher)) for row in rows()]

    assert together.num_tokens == sum(target for _, target in SIZES)
    assert float(together.nats) == pytest.approx(sum(wanted), rel=1e-6)
    assert [float(loss.nats) for loss in alone] == pytest.approx(wanted, rel=1e-6)
    measured = example_losses(
        backbone, method, rows(), backbone.prompter(plan.task.prompt), batch_size=2, teacher=teacher
    )
    assert measured[:, 0].tolist() == pytest.approx(wanted, rel=1e-6)


def test_gradients_reach_the_prefix_and_nothing_else(tiny_runs: TinyRuns) -> None:
    plan, backbone = tiny_runs.attached(method__reparam="none")

    target_loss(backbone, plan.method, collate_training(rows(), PADDING, teacher)).nats.backward()

    assert all(parameter.grad is not None and parameter.grad.any() for parameter in plan.method.parameters())
    assert all(parameter.grad is None for parameter in backbone.model.parameters())


@torch.no_grad()
def test_a_sure_teacher_is_the_loss_of_its_tokens(tiny_runs: TinyRuns) -> None:
    plan, backbone = tiny_runs.attached()

    def sure(example: int) -> TeacherTokens:
        ids = teacher(example).token_ids
        return TeacherTokens(token_ids=ids, top_ids=ids[:, None], top_log_probs=torch.zeros(len(ids), 1))

    taught, plain = (
        target_loss(backbone, plan.method, collate_training(rows(), PADDING, one)).nats for one in (sure, None)
    )
    assert float(taught) == pytest.approx(float(plain), rel=1e-5)


def test_what_does_not_fit_a_teacher_is_refused(tiny_runs: TinyRuns) -> None:
    plan, backbone = tiny_runs.attached()
    batch = collate_training(rows(), PADDING, teacher)

    with pytest.raises(ValueError, match="`label_smoothing` must be 0 with a teacher"):
        target_loss(backbone, plan.method, batch, label_smoothing=0.1)
    with pytest.raises(DataError, match="those of example 1 differ"):
        collate_training([{**rows()[0], "example": 1}], PADDING, teacher)
    assert batch.to("meta").teacher is not None
    assert batch.to("meta").teacher.ids.device.type == "meta"  # type: ignore[union-attr]
