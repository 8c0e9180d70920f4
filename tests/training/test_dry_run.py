import dataclasses

import pytest
from support.tiny_runs import TinyRuns

from ptl_prefix.backbones import source
from ptl_prefix.methods.ia3 import IA3
from ptl_prefix.methods.lora import LoRA
from ptl_prefix.methods.method import Method
from ptl_prefix.training.dry_run import estimate
from ptl_prefix.training.run_inputs import load_run_inputs


def test_activations_grow_with_the_batch_and_the_weights_are_none_of_them(tiny_runs: TinyRuns) -> None:
    one, two, three = (estimate(tiny_runs.plan(data__batch_size=32 * n)).activation_bytes for n in (1, 2, 3))

    assert three - two == pytest.approx(two - one, rel=0.01)
    assert one < 1.1 * (two - one)


@pytest.mark.parametrize("reparam", ["none", "mlp", "linear"])
def test_counts_are_those_of_the_loaded_backbone_and_method(tiny_runs: TinyRuns, reparam: str) -> None:
    plan, backbone = tiny_runs.attached(method__reparam=reparam)

    estimated = estimate(tiny_runs.plan(method__reparam=reparam))

    assert estimated.num_trainable == plan.method.num_trainable
    assert estimated.num_stored == plan.method.num_stored
    assert estimated.num_frozen == backbone.num_parameters
    assert estimated.backbone_bytes == 4 * backbone.num_parameters
    assert estimated.optimizer_bytes == 12 * plan.method.num_trainable
    assert estimated.gradient_bytes == 4 * plan.method.num_trainable


def test_a_bfloat16_backbone_takes_half_the_memory(tiny_runs: TinyRuns) -> None:
    half, whole = (estimate(tiny_runs.plan(backbone__dtype=dtype)) for dtype in ("bfloat16", "float32"))

    assert half.backbone_bytes == whole.backbone_bytes // 2
    assert half.optimizer_bytes == whole.optimizer_bytes
    assert half.activation_bytes < whole.activation_bytes


def test_quantised_matrices_take_less_and_the_rest_is_as_it_was(tiny_runs: TinyRuns) -> None:
    quantizations = (None, "bitsandbytes_8bit", "bitsandbytes_4bit")
    whole, eight, four = (estimate(tiny_runs.plan(backbone__quantization=wanted)) for wanted in quantizations)

    assert four.backbone_bytes < eight.backbone_bytes < whole.backbone_bytes
    assert four.num_frozen == eight.num_frozen == whole.num_frozen
    assert four.activation_bytes == eight.activation_bytes == whole.activation_bytes


def test_of_a_sharded_backbone_a_device_holds_a_share(tiny_runs: TinyRuns) -> None:
    plan = tiny_runs.plan(backbone__path="tiny_gpt2", trainer__devices=8, trainer__strategy="fsdp")
    backbone = plan.backbone.load_shape()

    sharded = estimate(plan)

    assert sharded.backbone_bytes == backbone.memory_per_rank(8).in_layers < backbone.num_bytes


def test_a_backbone_that_one_device_would_shard_is_whole_on_it(tiny_runs: TinyRuns) -> None:
    plan = tiny_runs.plan(trainer__devices=1, trainer__strategy="fsdp")

    assert estimate(plan) == estimate(tiny_runs.plan())


def test_steps_and_epochs_are_those_of_the_run(tiny_runs: TinyRuns) -> None:
    plan = tiny_runs.plan(trainer__max_steps=-1, trainer__max_epochs=3, trainer__accumulate_grad_batches=4)
    inputs = load_run_inputs(plan)

    estimated = estimate(plan)

    assert estimated.pairs == 40
    assert estimated.steps == plan.num_steps(len(inputs.train)) == 9  # an epoch is two steps of 16 rows and one of 8
    assert estimated.epochs == pytest.approx(3)
    batches = [batch for batch in inputs.train if batch.num_rows]
    assert estimated.longest_tokens == max(int(batch.attention_mask.sum(-1).max()) for batch in batches)


def test_what_the_choice_of_the_best_checkpoint_decodes_is_said(tiny_runs: TinyRuns) -> None:
    chosen = {"training__select_by": "val/exact_match", "training__select_every": 2, "training__select_examples": 3}
    plan = tiny_runs.plan(**chosen, trainer__max_steps=10, trainer__val_check_interval=3)

    assert (
        estimate(plan).selection
        == "2 times 3 validation inputs are decoded for val/exact_match, each to at most 4 tokens"
    )
    assert estimate(tiny_runs.plan()).selection == ""


def test_no_weights_are_read(tiny_runs: TinyRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr(source, "build_model", refuse)
    monkeypatch.setattr(source, "open_tensors", refuse)

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

    assert (estimated.num_frozen, estimated.backbone_bytes) == (other.num_frozen, other.backbone_bytes)
    backbone = tiny_runs.backbone()
    assert (estimated.num_trainable, estimated.num_stored) == (method.num_trainable, method.num_stored)
    assert backbone.num_parameters == other.num_frozen
