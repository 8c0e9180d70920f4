"""Whole trainings that take a moment: a random backbone of two narrow layers, and the built-in task with few tables.

In: what shall differ, by the dotted keys of a config. Out: a `Plan` like the one that `train` builds, and the folder of
a backbone. Random weights learn little, but everything that training does happens to them.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from ptl_prefix.backbones.spec import EMBEDDED
from ptl_prefix.commands.train import plan_of
from ptl_prefix.settings import defaults_of
from ptl_prefix.training.plan import Plan

Family = Literal["gpt2", "llama"]

_TARGETS = {
    "backbone": ("backbone/tiny_gpt2", "ptl_prefix.backbones.spec.BackboneSpec"),
    "task": ("task/table_to_text", "ptl_prefix.data.tasks.table_to_text.TableToText"),
    "method": ("method/prefix_tuning", "ptl_prefix.methods.prefix_tuning.PrefixTuning"),
    "data": ("data/batches", "ptl_prefix.data.batches.BatchSettings"),
    "optimizer": ("optimizer/adamw", "ptl_prefix.training.optimization.Optimization"),
    "trainer": ("trainer/default", "pytorch_lightning.Trainer"),
    "generation": ("generation/greedy", "ptl_prefix.artifacts.decoding.Decoding"),
    "evaluation": ("evaluation/default", "ptl_prefix.evaluation.evaluate.EvaluationSettings"),
}

_SMALL = {
    "backbone.name": "tiny",
    "backbone.dtype": "float32",
    "task.num_train": 40,
    "task.num_validation": 6,
    "task.num_test": 4,
    "method.prefix_length": 3,
    "method.reparam_hidden_size": 16,
    "data.batch_size": 4,
    "data.eval_batch_size": 4,
    "optimizer.lr": 0.05,
    "optimizer.warmup_steps": 2,
    "trainer.max_steps": 6,
    "trainer.val_check_interval": 3,
    "trainer.log_every_n_steps": 1,
    "trainer.accelerator": "cpu",
    "generation.max_new_tokens": 4,
}


def write_tiny_backbone(folder: Path, family: Family = "gpt2", *, dropout: float = 0.0) -> Path:
    """A random model with the embedded tokenizer, in the Hugging Face format."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(EMBEDDED / "tiny_gpt2" / name, folder / name)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        _tiny_model(family, dropout).save_pretrained(folder)
    return folder


def _tiny_model(family: Family, dropout: float) -> PreTrainedModel:
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1, "vocab_size": 8192}
    if family == "llama":
        return LlamaForCausalLM(
            LlamaConfig(
                **ids,
                hidden_size=24,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=160,
                attention_dropout=dropout,
                initializer_range=0.2,
            )
        )
    pdrop = {name: dropout for name in ("attn_pdrop", "embd_pdrop", "resid_pdrop")}
    return GPT2LMHeadModel(GPT2Config(**ids, **pdrop, n_embd=24, n_layer=2, n_head=2, n_positions=160, initializer_range=0.2))


def tiny_config(backbone: Path, cache: Path, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A resolved config as the command line composes it, with `changes` by dotted key, such as `trainer.max_steps`."""
    config: dict[str, Any] = {"seed": 0, "run_id": "tiny", "dry_run": False, "resume": None}
    for group, (defaults, target) in _TARGETS.items():
        config[group] = {"_target_": target, **defaults_of(defaults)}
    given = {**_SMALL, "backbone.path": str(backbone), "data.cache_dir": str(cache), **(changes or {})}
    for dotted, value in given.items():
        group, _, key = dotted.rpartition(".")
        (config[group] if group else config)[key] = value
    return config


def tiny_plan(backbone: Path, cache: Path, changes: Mapping[str, Any] | None = None) -> Plan:
    """What `tiny_config` describes, as objects."""
    return plan_of(tiny_config(backbone, cache, changes))
