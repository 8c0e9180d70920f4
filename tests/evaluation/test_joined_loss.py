"""The losses and gradients of several methods in one pass are those of a pass each, in float64."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from support.toy_batches import packable_pairs, random_ids
from torch import Tensor
from torch.testing import assert_close

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.joined_rows import take_conditioned
from ptl_prefix.backbones.model_inputs import ModelInputs, Padding, TeacherTargets
from ptl_prefix.backbones.spec import load_backbone
from ptl_prefix.data.collation import EncodedRow, collate_training
from ptl_prefix.data.packing import collate_packed
from ptl_prefix.evaluation import loss
from ptl_prefix.evaluation.joined_loss import LossRequest, joined_losses
from ptl_prefix.evaluation.loss import loss_part, target_loss
from ptl_prefix.methods.method import Method
from ptl_prefix.methods.prefix_tuning import PrefixTuning
from ptl_prefix.methods.prompt_tuning import PromptTuning

EQUAL: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-12}


def batch_of(backbone: Backbone, sizes: Sequence[tuple[int, int]], *, seed: int) -> ModelInputs:
    """A batch of rows with prompts and targets of these lengths."""
    rows = [
        EncodedRow(input_ids=random_ids(source + target, seed=seed + number), num_source_ids=source, example=number)
        for number, (source, target) in enumerate(sizes)
    ]
    start = backbone.decoder_start_id
    return collate_training(rows, Padding(backbone.pad_id, None if start is None else [start]))


def alone(backbone: Backbone, methods: Sequence[Method], batches: Sequence[ModelInputs], smoothing: float) -> list[Any]:
    found = []
    for number, (method, batch) in enumerate(zip(methods, batches, strict=True)):
        torch.manual_seed(number)
        own = target_loss(backbone, method, batch, label_smoothing=smoothing)
        (own.nats * 4).backward()  # a power of 2, as logits become float32 before the softmax
        found.append((own.nats.detach(), own.num_tokens, gradients(method)))
    return found


def joined(
    backbone: Backbone, methods: Sequence[Method], batches: Sequence[ModelInputs], smoothing: float
) -> list[Any]:
    requests = []
    for number, (method, batch) in enumerate(zip(methods, batches, strict=True)):
        torch.manual_seed(number)
        part = loss_part(backbone, batch, smoothing)
        rows = take_conditioned(backbone.slots, method.condition(part.batch))
        assert rows is not None
        requests.append(LossRequest(part, rows, needs_gradient=True))
    found = []
    for method, request, computed in zip(methods, requests, joined_losses(backbone, requests), strict=True):
        own = computed.target_loss(request.part.targets.num_tokens)
        (own.nats * 4).backward()  # a power of 2, as logits become float32 before the softmax
        found.append((own.nats.detach(), own.num_tokens, gradients(method)))
    return found


def gradients(method: Method) -> Tensor:
    """The gradient of everything that is trained; it is forgotten."""
    found = torch.cat([parameter.grad.flatten() for parameter in method.parameters() if parameter.grad is not None])
    method.zero_grad()
    return found


def attached(backbone: Backbone, methods: Sequence[Method]) -> list[Method]:
    backbone.model.double()
    for seed, method in enumerate(methods):
        torch.manual_seed(100 + seed)
        method.attach(backbone).double().train()
    return list(methods)


def three_prefixes() -> list[Method]:
    return [
        PrefixTuning(prefix_length=3, reparam="none"),
        PrefixTuning(prefix_length=11, reparam="none", prefix_dropout=0.4),
        PrefixTuning(prefix_length=1, reparam="mlp", reparam_hidden_size=8),
    ]


SIZES: list[list[tuple[int, int]]] = [[(4, 3), (9, 8)], [(2, 1)], [(5, 2), (1, 4), (20, 5)]]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_losses_and_gradients_are_those_of_a_pass_each(backbone: Backbone, smoothing: float) -> None:
    methods = attached(backbone, three_prefixes())
    batches = [batch_of(backbone, sizes, seed=10 * number) for number, sizes in enumerate(SIZES)]
    wanted = alone(backbone, methods, batches, smoothing)

    found = joined(backbone, methods, batches, smoothing)

    assert_close(found, wanted, **EQUAL)
    assert all(float(gradient.norm()) > 1e-3 for _, _, gradient in found), "a gradient of 0 would equal any other"
    assert not any(layer for layers in backbone.slots.filled().values() for layer in layers), "the slots are empty"


Make = Callable[[], list[Method]]


@pytest.mark.parametrize(
    "make",
    [
        lambda: [PrefixTuning(prefix_length=5, position_law="infix"), PrefixTuning(prefix_length=2)],
        lambda: [PrefixTuning(prefix_length=4, layers=[1]), PrefixTuning(prefix_length=6, layers=[0])],
        lambda: [PromptTuning(prompt_length=4, init="random"), PrefixTuning(prefix_length=7, position_law="unshifted")],
        lambda: [PrefixTuning(prefix_length=5, train_keys=False, reparam="none"), PrefixTuning(prefix_length=2)],
    ],
    ids=["infix", "layers", "prompt", "frozen keys"],
)
def test_prefixes_of_other_kinds_share_a_pass(backbone: Backbone, make: Make) -> None:
    methods = attached(backbone, make())
    batches = [batch_of(backbone, sizes, seed=10 * number) for number, sizes in enumerate(SIZES[:2])]
    wanted = alone(backbone, methods, batches, 0.0)

    assert_close(joined(backbone, methods, batches, 0.0), wanted, **EQUAL)


@pytest.mark.parametrize("family", ["bart", "t5"])
def test_encoder_decoders_share_a_pass(family: str, tiny_folders: dict[str, Any]) -> None:
    backbone = load_backbone(str(tiny_folders[family]), name=family, dtype="float32")
    methods = attached(backbone, three_prefixes())
    batches = [batch_of(backbone, sizes, seed=10 * number) for number, sizes in enumerate(SIZES)]
    wanted = alone(backbone, methods, batches, 0.0)

    assert_close(joined(backbone, methods, batches, 0.0), wanted, **EQUAL)


def test_rows_of_several_texts_share_a_pass(backbone: Backbone) -> None:
    methods = attached(backbone, three_prefixes()[:2])
    pairs = packable_pairs()
    batches = [
        collate_packed(some, pad_id=backbone.pad_id, shares_sources=shares)
        for some, shares in ((pairs, True), (pairs[3:], False))
    ]
    assert batches[0].input_ids.shape[1] != batches[1].input_ids.shape[1], "one is padded"
    wanted = alone(backbone, methods, batches, 0.0)

    assert_close(joined(backbone, methods, batches, 0.0), wanted, **EQUAL)


def test_a_teacher_and_labels_share_a_pass_in_chunks_of_logits(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = attached(backbone, three_prefixes())
    batches = [batch_of(backbone, sizes, seed=10 * number) for number, sizes in enumerate(SIZES)]
    shape = (*batches[2].input_ids.shape, 4)
    log_probs = torch.randn(shape, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    batches[2] = batches[2].replace(teacher=TeacherTargets(torch.arange(4).expand(shape), log_probs))
    wanted = alone(backbone, methods, batches, 0.0)
    monkeypatch.setattr(loss, "num_positions_in_chunk", lambda vocabulary_size: 8)

    found = joined(backbone, methods, batches, 0.0)

    for (nats, _, gradient), (wanted_nats, _, wanted_gradient) in zip(found, wanted, strict=True):
        assert_close(nats, wanted_nats, rtol=1e-6, atol=0)  # summed in float32, in another order
        assert_close(gradient, wanted_gradient, **EQUAL)


def test_a_prefix_that_is_not_finite_leaves_the_others_as_they_are(backbone: Backbone) -> None:
    methods = attached(backbone, three_prefixes())
    batches = [batch_of(backbone, sizes, seed=10 * number) for number, sizes in enumerate(SIZES)]
    wanted = alone(backbone, methods, batches, 0.0)
    with torch.no_grad():
        next(methods[1].parameters()).fill_(float("nan"))

    found = joined(backbone, methods, batches, 0.0)

    assert not found[1][0].isfinite()
    assert_close([found[0], found[2]], [wanted[0], wanted[2]], **EQUAL)
