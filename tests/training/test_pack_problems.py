"""What is refused in a pack, by the name of its setting."""

from collections.abc import Callable
from typing import Any

import pytest

from ptl_prefix.methods.lora import LoRA
from ptl_prefix.methods.method import Method
from ptl_prefix.methods.prefix_plus import PrefixPlus
from ptl_prefix.methods.prefix_tuning import PrefixTuning
from ptl_prefix.methods.prompt_tuning import PromptTuning
from ptl_prefix.training.pack_problems import pack_problems


@pytest.mark.parametrize("make", [PrefixTuning, PromptTuning])
def test_prefixes_and_prompts_share_a_backbone(make: Callable[[], Method]) -> None:
    trainer = {"devices": 1, "precision": "32-true", "max_time": None, "accumulate_grad_batches": 4}

    assert pack_problems(make(), trainer, None, caches_hidden_states=False) == []


@pytest.mark.parametrize(
    ("make", "trainer", "base_mode", "caches", "name"),
    [
        (LoRA, {}, "eval", False, "`method`"),
        (PrefixPlus, {}, None, False, "`method`"),
        (PrefixTuning, {"precision": "16-mixed"}, None, False, "`trainer.precision`"),
        (PrefixTuning, {"devices": 2}, None, False, "`trainer.devices`"),
        (PrefixTuning, {"max_time": "00:00:10:00"}, None, False, "`trainer.max_time`"),
        (PrefixTuning, {}, "train", False, "`backbone.base_mode`"),
        (PrefixTuning, {}, None, True, "`data.cache_hidden_states`"),
    ],
)
def test_what_acts_on_more_than_its_own_rows_is_refused_by_name(
    make: Callable[[], Method], trainer: dict[str, Any], base_mode: str | None, caches: bool, name: str
) -> None:
    (problem,) = pack_problems(make(), trainer, base_mode, caches_hidden_states=caches)

    assert name in problem and "`hydra.sweeper.pack`" in problem
