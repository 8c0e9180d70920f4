"""PEFT's methods as the benchmarks use them.

In: sizes, and the backbone whose linear modules LoRA updates. Out: PEFT's configs for causal language models.
"""

from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, TaskType

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.linear_sites import LINEAR_NAMES


def prefix_config(*, prefix_length: int, hidden_size: int | None = None) -> PrefixTuningConfig:
    """PEFT's prefix; with a hidden size, with its projection."""
    return PrefixTuningConfig(
        task_type=TaskType.CAUSAL_LM,
        num_virtual_tokens=prefix_length,
        prefix_projection=hidden_size is not None,
        encoder_hidden_size=hidden_size or 0,  # read only with a projection
    )


def prompt_config(*, prompt_length: int) -> PromptTuningConfig:
    """PEFT's prompt of random rows."""
    return PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=prompt_length)


def lora_config(backbone: Backbone, *, rank: int) -> LoraConfig:
    """PEFT's LoRA of queries and values, without dropout."""
    names = LINEAR_NAMES[backbone.family]
    return LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=rank,
        lora_dropout=0.0,
        target_modules=sorted({names.query, names.value}),
        fan_in_fan_out=backbone.family == "gpt2",
    )
