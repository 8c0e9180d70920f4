"""What a dry run says of memory, beside what the allocator was really asked for."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import TinyRuns
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from ptl_prefix.backbones.spec import EMBEDDED
from ptl_prefix.data.batches import EvalBatches
from ptl_prefix.evaluation.loss import target_loss
from ptl_prefix.methods.full_finetuning import FullFinetuning
from ptl_prefix.methods.lora import LoRA
from ptl_prefix.methods.method import Method
from ptl_prefix.methods.prefix_tuning import PrefixTuning
from ptl_prefix.training.dry_run import estimate
from ptl_prefix.training.plan import Plan

WITHIN = 1.05
"""The larger of estimate and measured peak is at most so many times the other: kernels use what they do not say."""

METHODS: dict[str, Any] = {
    "prefix": lambda: PrefixTuning(reparam="none", prefix_length=20),
    "mlp": lambda: PrefixTuning(reparam="mlp", reparam_hidden_size=64),
    "lora": LoRA,
    "full": FullFinetuning,
}


def model_of(family: str) -> PreTrainedModel:
    """A model of some million parameters."""
    if family == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(
                vocab_size=8192, bos_token_id=0, eos_token_id=0, n_embd=256, n_layer=6, n_head=4, n_positions=256
            )
        )
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=8192,
            hidden_size=256,
            intermediate_size=688,
            num_hidden_layers=6,
            num_attention_heads=8,
            num_key_value_heads=2,
            max_position_embeddings=256,
        )
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Such models with the embedded tokenizer."""
    found = {}
    for family in ("gpt2", "llama"):
        found[family] = tmp_path_factory.mktemp(family)
        model_of(family).save_pretrained(found[family])
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(EMBEDDED / "tiny_gpt2" / name, found[family] / name)
    return found


def measured_peak(plan: Plan) -> int:
    """The most bytes that a step holds at once beside weights, trained numbers and Adam's moments."""
    backbone = plan.backbone.load()
    prompter = backbone.prompter(plan.task.prompt)
    encoded = plan.encoded("train", backbone, prompter)
    batch = next(iter(EvalBatches(encoded, batch_size=plan.batches.batch_size, pad_id=backbone.pad_id)))
    method = plan.method.attach(backbone)
    optimizer = torch.optim.AdamW(method.trained_parameters().values(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        for _ in range(plan.accumulation):
            target_loss(backbone, method, batch).nats.backward()
        optimizer.step()

    step()  # from here on there are moments, and kernels
    optimizer.zero_grad()
    backbone.slots.clear()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    method.detach()
    events = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    now = most = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def plan_with(tiny_runs: TinyRuns, folder: Path, method: str, **changes: Any) -> Plan:
    """A plan on one of the models."""
    made: Method = METHODS[method]()
    return dataclasses.replace(tiny_runs.plan(backbone__path=str(folder), **changes), method=made)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_weights_that_are_trained_in_float32_and_used_in_another_dtype_are_there_twice(
    tiny_runs: TinyRuns, folders: dict[str, Path], family: str, dtype: str
) -> None:
    plan, same = (plan_with(tiny_runs, folders[family], "full", backbone__dtype=dtype) for _ in range(2))
    estimated = estimate(plan)

    measured = measured_peak(same)

    said = estimated.memory_bytes - estimated.backbone_bytes - estimated.optimizer_bytes
    print("said", family, dtype, said / 1e6, measured / 1e6)
    assert measured / WITHIN < said < measured * WITHIN


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_step_takes_what_the_dry_run_says(
    tiny_runs: TinyRuns, folders: dict[str, Path], family: str, method: str, batch_size: int, checkpointing: bool
) -> None:
    changes = {"data__batch_size": batch_size, "backbone__gradient_checkpointing": checkpointing}
    estimated = estimate(plan_with(tiny_runs, folders[family], method, **changes))

    measured = measured_peak(plan_with(tiny_runs, folders[family], method, **changes))

    said = estimated.memory_bytes - estimated.backbone_bytes - estimated.optimizer_bytes
    assert measured / WITHIN < said < measured * WITHIN
