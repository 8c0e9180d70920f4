"""Whole trainings that take a moment: a random backbone of two narrow layers, and the built-in task with few tables.

In: what shall differ from a small config. Out: a `Plan` as `train` builds it. Random weights learn little, but
everything that training does happens to them.
"""

import functools
import shutil
from pathlib import Path
from typing import Any, Literal, cast

import torch
from transformers import (
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    T5Config,
    T5ForConditionalGeneration,
)

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.source import EMBEDDED
from ptl_prefix.backbones.spec import load_backbone
from ptl_prefix.commands.config.build_plan import build_plan
from ptl_prefix.settings import defaults_of
from ptl_prefix.training.plan import Plan

Family = Literal["gpt2", "llama", "bart", "t5"]

_TARGETS = {
    "backbone": ("backbone/tiny_gpt2", "ptl_prefix.backbones.spec.BackboneSpec"),
    "task": ("task/table_to_text", "ptl_prefix.data.tasks.table_to_text.TableToText"),
    "method": ("method/prefix_tuning", "ptl_prefix.methods.prefix_tuning.PrefixTuning"),
    "data": ("data/batches", "ptl_prefix.data.settings.DataSettings"),
    "optimizer": ("optimizer/adamw", "ptl_prefix.training.optimization.Optimization"),
    "trainer": ("trainer/default", "pytorch_lightning.Trainer"),
    "generation": ("generation/greedy", "ptl_prefix.artifacts.decoding.Decoding"),
    "evaluation": ("evaluation/default", "ptl_prefix.evaluation.evaluate.EvaluationSettings"),
    "training": ("training/default", "ptl_prefix.training.settings.TrainingSettings"),
    "tracking": ("tracking/none", "ptl_prefix.tracking.tracking.Tracking"),
}

_SMALL = {
    "backbone__name": "tiny",
    "backbone__dtype": "float32",
    "backbone__device": "cpu",
    "task__num_train": 40,
    "task__num_validation": 6,
    "task__num_test": 4,
    "method__prefix_length": 3,
    "method__reparam_hidden_size": 16,
    "data__batch_size": 4,
    "data__eval_batch_size": 4,
    "optimizer__lr": 0.05,
    "optimizer__warmup_steps": 2,
    "trainer__max_steps": 6,
    "trainer__val_check_interval": 3,
    "trainer__log_every_n_steps": 1,
    "generation__max_new_tokens": 4,
    "evaluation__retention": False,
}


def write_tiny_backbone(folder: Path, family: Family = "gpt2", *, dropout: float = 0.0) -> Path:
    """A random model with the embedded tokenizer, in the Hugging Face format."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(EMBEDDED / "tiny_gpt2" / name, folder / name)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        _tiny_model(family, dropout).save_pretrained(folder)
    return folder


@functools.cache
def embedded_tokenizer() -> PreTrainedTokenizerBase:
    """The tokenizer of the embedded backbone, which the random models have, too."""
    return cast(PreTrainedTokenizerBase, AutoTokenizer.from_pretrained(EMBEDDED / "tiny_gpt2"))


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
    if family == "bart":
        sizes = {"d_model": 24, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 160}
        heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 4}
        return BartForConditionalGeneration(
            BartConfig(
                **ids,
                **sizes,
                **heads,
                encoder_layers=1,
                decoder_layers=2,
                dropout=dropout,
                init_std=0.2,
                decoder_start_token_id=0,
                forced_eos_token_id=None,
            )
        )
    if family == "t5":
        return T5ForConditionalGeneration(
            T5Config(  # type: ignore[call-arg]
                **ids,
                d_model=24,
                d_kv=8,
                num_heads=2,
                d_ff=48,
                num_layers=2,
                num_decoder_layers=3,
                dropout_rate=dropout,
                decoder_start_token_id=1,
            )
        )
    pdrop = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), dropout)
    return GPT2LMHeadModel(
        GPT2Config(**ids, **pdrop, n_embd=24, n_layer=2, n_head=2, n_positions=160, initializer_range=0.2)
    )


class TinyRuns:
    """Plans on one tiny backbone, with one cache of encoded splits.

    Args:
        folder: Where both lie.
        family: The backbone's.
        dropout: The backbone's own, everywhere it has one.
    """

    def __init__(self, folder: Path, family: Family = "gpt2", *, dropout: float = 0.0) -> None:
        self.backbone_folder = write_tiny_backbone(folder / family, family, dropout=dropout)
        self.cache = folder / "cache"

    def config(self, **changes: Any) -> dict[str, Any]:
        """A resolved config as the command line composes it; `trainer__max_steps` changes `trainer.max_steps`."""
        config: dict[str, Any] = {
            "seed": 0,
            "run_id": "tiny",
            "dry_run": False,
            "resume": None,
            "study": None,
            "trial": None,
        }
        for group, (defaults, target) in _TARGETS.items():
            config[group] = {"_target_": target, **defaults_of(defaults)}
        places = {"backbone__path": str(self.backbone_folder), "data__cache_dir": str(self.cache)}
        for name, value in {**_SMALL, **places, **changes}.items():
            group, _, key = name.rpartition("__")
            (config[group] if group else config)[key] = value
        return config

    def plan(self, **changes: Any) -> Plan:
        """What such a config describes, as objects."""
        return build_plan(self.config(**changes))

    def backbone(self, **settings: Any) -> Backbone:
        """The backbone alone, in float32."""
        return load_backbone(
            str(self.backbone_folder), **{"name": "tiny", "dtype": "float32", "device": "cpu", **settings}
        )

    def attached(self, **changes: Any) -> tuple[Plan, Backbone]:
        """A plan and the loaded backbone that its method is attached to; where prefixes start is always the same."""
        plan = self.plan(**changes)
        backbone = plan.backbone.load()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            plan.method.attach(backbone)
        return plan, backbone
