"""How much a prompt attends to the prefix of a task.

In: a loaded prefix and a prompt. Out: for each layer, the fraction of attention on the prefix. One forward pass, on the
engine's thread, between two rounds.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ptl_prefix.backbones.attention_mass import prefix_mass
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import Padding, prompt_batch
from ptl_prefix.backbones.prefix_states import PrefixStates
from ptl_prefix.serving.prefix_loading import LoadedPrefix


def attention_on_prefix(
    backbone: Backbone, prefix: LoadedPrefix, prompt_ids: Sequence[int], padding: Padding
) -> dict[str, list[float]]:
    """The fraction of attention (softmax over prefix and text) on the prefix, by site and layer.

    It is averaged over heads and over the positions of the text that see the prefix. A layer without a prefix has 0.

    Args:
        backbone: The backbone; no method may be attached that changes its weights.
        prefix: The prefix.
        prompt_ids: Token ids of a prompt.
        padding: Padding of prompts.
    """
    inputs = prompt_batch([prompt_ids], padding).to(backbone.device).replace(prompt_rows=prefix.prompt_rows)
    states = prefix.states
    if states is None:
        return {}
    backbone.slots.acquire()
    try:
        seen = states.seen_from(inputs.first_written) if prefix.is_infix else states
        backbone.slots.fill(seen)
        positioned = inputs.with_positions(seen.text_offset(inputs.input_ids.shape[1]))
        masses = prefix_mass(backbone, positioned)
    finally:
        backbone.slots.release()
    return {
        site: [0.0 if mass is None else _mean(mass.weights, mass.num_queries) for mass in layers]
        for site, layers in masses.items()
        if _has_prefix(states, site)
    }


def _mean(weights: Tensor, num_queries: int) -> float:
    """The mean over heads of the attention on all prefix positions together."""
    return float(torch.sum(weights, dim=-1).mean()) / max(num_queries, 1)


def _has_prefix(states: PrefixStates, site: str) -> bool:
    return any(layer is not None for layer in states.sites[site])
