import dataclasses
from typing import Any

import pytest
import torch
from tiny_runs import TinyRuns
from torch import Tensor

from ptl_prefix.backbones import spec
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.data.batches import EvalBatches
from ptl_prefix.data.encoding import encode_split
from ptl_prefix.evaluation.loss import target_loss
from ptl_prefix.methods.ia3 import IA3
from ptl_prefix.methods.lora import LoRA
from ptl_prefix.methods.method import Method
from ptl_prefix.training.dry_run import estimate
from ptl_prefix.training.material import load_material
from ptl_prefix.training.plan import Plan

ACTIVATIONS_WITHIN = 1.25
"""The estimate takes the average share of targets for that of the longest batch, and nothing is rounded up in it."""


def measured_activations(plan: Plan) -> int:
    """Bytes that autograd really keeps for the batch of the longest rows."""
    backbone = plan.backbone.load()
    prompter = Prompter(backbone.tokenizer, plan.task.prompt)
    encoded = encode_split(plan.task, "train", prompter, max_tokens=None, settings=plan.batches)
    batch = next(iter(EvalBatches(encoded, batch_size=plan.batches.batch_size, pad_id=1)))
    method = plan.method.attach(backbone)
    weights = {parameter.untyped_storage().data_ptr() for parameter in backbone.model.parameters()}
    kept: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = target_loss(backbone, method, batch)
    assert loss.num_tokens > 0
    method.detach()
    return sum(storage.nbytes() for place, storage in kept.items() if place not in weights)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"method__reparam": "none", "method__prefix_length": 20},
        {"method__layers": [1]},
        {"data__batch_size": 16},
        {"backbone__dtype": "bfloat16"},
    ],
)
def test_activations_are_estimated_within_a_quarter(tiny_runs: TinyRuns, changes: dict[str, Any]) -> None:
    estimated = estimate(tiny_runs.plan(**changes)).activation_bytes

    measured = measured_activations(tiny_runs.plan(**changes))

    assert measured / ACTIVATIONS_WITHIN < estimated < measured * ACTIVATIONS_WITHIN


@pytest.mark.parametrize("method", [LoRA, IA3])
def test_activations_of_layers_inside_the_backbone_are_estimated_too(tiny_runs: TinyRuns, method: type[Method]) -> None:
    plan, same = (dataclasses.replace(tiny_runs.plan(), method=method()) for _ in range(2))

    estimated, measured = estimate(plan).activation_bytes, measured_activations(same)

    assert measured / ACTIVATIONS_WITHIN < estimated < measured * ACTIVATIONS_WITHIN


def test_activations_grow_with_the_batch_and_the_weights_are_none_of_them(tiny_runs: TinyRuns) -> None:
    four, sixteen = (estimate(tiny_runs.plan(data__batch_size=size)).activation_bytes for size in (4, 16))

    assert sixteen == pytest.approx(4 * four, rel=0.02)


@pytest.mark.parametrize("reparam", ["none", "mlp", "linear"])
def test_counts_are_those_of_the_loaded_backbone_and_method(tiny_runs: TinyRuns, reparam: str) -> None:
    plan, backbone = tiny_runs.attached(method__reparam=reparam)

    estimated = estimate(tiny_runs.plan(method__reparam=reparam))

    assert estimated.trained == plan.method.num_trained
    assert estimated.stored == plan.method.num_stored
    assert estimated.backbone == backbone.num_parameters
    assert estimated.backbone_bytes == 4 * backbone.num_parameters
    assert estimated.optimizer_bytes == 16 * plan.method.num_trained


def test_a_bfloat16_backbone_takes_half_the_memory(tiny_runs: TinyRuns) -> None:
    half, whole = (estimate(tiny_runs.plan(backbone__dtype=dtype)) for dtype in ("bfloat16", "float32"))

    assert half.backbone_bytes == whole.backbone_bytes // 2
    assert half.optimizer_bytes == whole.optimizer_bytes
    assert half.activation_bytes < whole.activation_bytes


def test_of_a_sharded_backbone_a_device_holds_a_share(tiny_runs: TinyRuns) -> None:
    plan = tiny_runs.plan(backbone__path="tiny_gpt2", trainer__devices=8, trainer__strategy="fsdp")
    backbone = plan.backbone.sketch()

    sharded = estimate(plan)

    assert sharded.backbone_bytes == backbone.num_bytes_sharded(8) < backbone.num_bytes


def test_steps_and_epochs_are_those_of_the_run(tiny_runs: TinyRuns) -> None:
    plan = tiny_runs.plan(trainer__max_steps=-1, trainer__max_epochs=3, trainer__accumulate_grad_batches=4)
    material = load_material(plan)

    estimated = estimate(plan)

    assert estimated.pairs == 40
    assert estimated.steps == plan.num_steps(len(material.train)) == 9  # an epoch is two steps of 16 rows and one of 8
    assert estimated.epochs == pytest.approx(3)
    batches = [batch for batch in material.train if batch.num_rows]
    assert estimated.longest_tokens == max(int(batch.attention_mask.sum(-1).max()) for batch in batches)


def test_no_weights_are_read(tiny_runs: TinyRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr(spec.AutoModelForCausalLM, "from_pretrained", refuse)
    monkeypatch.setattr(spec, "safe_open", refuse)

    assert estimate(tiny_runs.plan()).memory_bytes > 0


def test_the_method_is_left_as_it_was(tiny_runs: TinyRuns) -> None:
    plan = tiny_runs.plan()

    estimate(plan)

    assert not plan.method.is_attached


@pytest.mark.parametrize("method", [LoRA(rank=2, use_dora=True), IA3()], ids=["dora", "ia3"])
def test_numbers_that_a_method_puts_into_the_backbone_are_not_counted_as_the_backbones(
    tiny_runs: TinyRuns, method: Method
) -> None:
    plan = tiny_runs.plan()

    estimated, other = estimate(dataclasses.replace(plan, method=method)), estimate(plan)

    assert (estimated.backbone, estimated.backbone_bytes) == (other.backbone, other.backbone_bytes)
    backbone = tiny_runs.backbone()
    assert (estimated.trained, estimated.stored) == (method.num_trained, method.num_stored)
    assert backbone.num_parameters == other.backbone
