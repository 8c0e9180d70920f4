"""PEFT's prefix-tuning as a `Backbone`, so that one function computes its loss and ours.

In: a loaded `Backbone` and a prefix length. Out: a `Backbone` whose logits are those of PEFT's `PREFIX_TUNING` with the
same model: `target_loss(PeftPrefix(...), NoAdaptation(), batch)`.

PEFT is not changed. Its encoder is float32, and its keys and values are cast to the backbone's dtype before they become
a cache, as ours are cast at the slot; so both behave alike with a bfloat16 backbone. Text positions start after the
prefix in both. PEFT has no option for logits at target positions only; `head_at_targets_only` adds it, to measure its
effect.
"""

import warnings
from collections.abc import Mapping
from typing import Any

from peft import PeftConfig, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from benchmarks.peft_configs import prefix_config
from ptl_prefix.backbones.backbone import Backbone, Positions
from ptl_prefix.backbones.model_inputs import ModelInputs


def wrapped(model: PreTrainedModel, config: PeftConfig) -> Any:
    """Wrap a model with PEFT; LoRA is also injected into the model itself."""
    with warnings.catch_warnings():
        # PEFT reads an attribute that transformers has renamed.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        return get_peft_model(model, config)


class PeftPrefix(Backbone):
    """A backbone with PEFT's prefix.

    Args:
        backbone: Backbone whose model is wrapped; it must not be used elsewhere afterwards.
        prefix_length: PEFT's `num_virtual_tokens`.
        hidden_size: Hidden size of PEFT's projection; `None` for no projection.
        head_at_targets_only: Compute logits only at targets, instead of at every position as PEFT does.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        prefix_length: int,
        hidden_size: int | None = None,
        head_at_targets_only: bool = False,
    ) -> None:
        super().__init__(
            model=backbone.model,
            tokenizer=backbone.tokenizer,
            name=f"peft_{backbone.name}",
            path=backbone.path,
            base_mode=backbone.base_mode,
            fingerprints=None,
        )
        self._peft_model = wrapped(self.model, prefix_config(prefix_length=prefix_length, hidden_size=hidden_size))
        self._head_at_targets_only = head_at_targets_only

    def logits(self, inputs: ModelInputs) -> Tensor:
        """Next-token logits at every position; PEFT computes the position ids."""
        logits: Tensor = self._peft_model(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask).logits
        return logits

    def target_logits(self, inputs: ModelInputs, positions: Positions) -> Tensor:
        """Next-token logits at some positions, by default selected from those at all positions."""
        if not self._head_at_targets_only:
            return self.logits(inputs)[positions]
        with self.lm_head_at(positions):
            return self.logits(inputs)

    def trainable_parameters(self) -> Mapping[str, nn.Parameter]:
        """The parameters that PEFT trains, by PEFT's names."""
        return {name: p for name, p in self._peft_model.named_parameters() if p.requires_grad}
