import pytest
import torch
from support.tiny_runs import TinyRuns
from torch.nn import functional

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import IGNORED_LABEL, ModelInputs, Padding
from ptl_prefix.data.collation import EncodedRow, collate_training
from ptl_prefix.evaluation.loss import mean_loss, target_loss
from ptl_prefix.methods.no_adaptation import NoAdaptation

PADDING = Padding(1)


def row(num_source: int, num_target: int, seed: int) -> EncodedRow:
    ids = torch.randint(2, 8192, (num_source + num_target,), generator=torch.Generator().manual_seed(seed))
    return EncodedRow(input_ids=ids.tolist(), num_source_ids=num_source, example=0)


def batch_of(*sizes: tuple[int, int]) -> ModelInputs:
    return collate_training([row(source, target, seed) for seed, (source, target) in enumerate(sizes)], padding=PADDING)


@pytest.fixture
def bare(tiny_runs: TinyRuns) -> tuple[Backbone, NoAdaptation]:
    backbone = tiny_runs.backbone()
    return backbone, NoAdaptation().attach(backbone)


@pytest.mark.parametrize(
    "sizes",
    # With a source of one id the first position already predicts a target.
    [[(5, 7)], [(5, 7), (9, 2), (1, 12)], [(1, 12)]],
    ids=["one example", "a padded batch", "a source of one id"],
)
def test_loss_equals_the_loss_of_transformers(
    bare: tuple[Backbone, NoAdaptation], sizes: list[tuple[int, int]]
) -> None:
    backbone, method = bare
    batch = batch_of(*sizes)
    theirs = backbone.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels).loss

    ours = target_loss(backbone, method, batch)

    assert ours.num_tokens == sum(target for _, target in sizes)
    assert float(ours.nats / ours.num_tokens) == pytest.approx(float(theirs), rel=1e-5)


def test_loss_is_a_sum_so_that_batches_can_be_added_up(bare: tuple[Backbone, NoAdaptation]) -> None:
    together = target_loss(*bare, batch_of((5, 7), (9, 2)))

    alone = [
        target_loss(*bare, collate_training([row(source, target, seed)], padding=PADDING))
        for seed, (source, target) in enumerate([(5, 7), (9, 2)])
    ]

    assert float(together.nats) == pytest.approx(sum(float(loss.nats) for loss in alone), rel=1e-5)


@torch.no_grad()
def test_label_smoothing_is_that_of_torch(tiny_runs: TinyRuns) -> None:
    plan, backbone = tiny_runs.attached()
    batch = batch_of((5, 7), (9, 2))
    logits = backbone.logits(plan.method.condition(batch))
    assert batch.labels is not None
    # What the backbone itself finds likely: smoothing hardly changes what random targets cost.
    likely = functional.pad(logits.argmax(-1)[:, :-1], (1, 0))
    batch = batch.replace(labels=torch.where(batch.labels == IGNORED_LABEL, batch.labels, likely))
    theirs = functional.cross_entropy(
        logits[:, :-1].flatten(0, 1),
        batch.labels[:, 1:].flatten(),
        ignore_index=IGNORED_LABEL,
        reduction="mean",
        label_smoothing=0.3,
    )

    smoothed = target_loss(backbone, plan.method, batch, label_smoothing=0.3)
    plain = target_loss(backbone, plan.method, batch)

    assert float(smoothed.nats) / smoothed.num_tokens == pytest.approx(float(theirs), rel=1e-5)
    assert float(smoothed.nats) > 1.1 * float(plain.nats)


def test_gradient_reaches_the_method_and_nothing_else(tiny_runs: TinyRuns) -> None:
    plan, backbone = tiny_runs.attached()

    target_loss(backbone, plan.method, batch_of((5, 7))).nats.backward()

    assert all(parameter.grad.abs().sum() > 0 for parameter in plan.method.parameters())
    assert all(parameter.grad is None for parameter in backbone.model.parameters())


def test_mean_loss_over_unequal_batches_is_no_mean_of_means(bare: tuple[Backbone, NoAdaptation]) -> None:
    batches = [batch_of((5, 20), (3, 11)), batch_of((4, 1))]
    losses = [target_loss(*bare, batch) for batch in batches]
    mean_of_means = sum(float(loss.nats / loss.num_tokens) for loss in losses) / 2

    mean = mean_loss(*bare, batches)

    assert mean == pytest.approx(sum(float(loss.nats) for loss in losses) / 32, rel=1e-6)
    assert mean != pytest.approx(mean_of_means, rel=1e-3)


def test_mean_loss_is_measured_without_dropout_and_leaves_the_modes_as_they_were(dropping_runs: TinyRuns) -> None:
    plan, backbone = dropping_runs.attached(backbone__base_mode="train", method__prefix_dropout=0.5)
    batches = [batch_of((5, 20))]

    assert mean_loss(backbone, plan.method, batches) == mean_loss(backbone, plan.method, batches)
    assert backbone.model.training
    assert plan.method.training
