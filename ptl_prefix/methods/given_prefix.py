"""Keys and values that were computed, not trained, as a method: what a trained prefix is compared with.

In: prefix states, such as those of a document or of a compressed one; a batch, per forward pass. Out: filled slots, and
the text's positions.
"""

from typing import Any, Self

import torch
from torch import Tensor

from ptl_prefix.artifacts.bundle import Bundle
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.context_states import attention_to_context, reading_problem
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.backbones.prefix_states import PrefixStates, layers_of_table
from ptl_prefix.methods.attention_matching import match_attention
from ptl_prefix.methods.method import Method, Resource

_QUERIES_PER_TEXT = 64


class GivenPrefix(Method):
    """Puts given keys and values before every text.

    Args:
        name: Name of the method.
        states: The keys and values, one row, in the backbone's dtype and on its device.
    """

    kind = "given_prefix"
    mixes_rows = True

    def __init__(self, *, name: str, states: PrefixStates) -> None:
        super().__init__(name=name, default_lr=0.0)
        self.states = states

    def condition(self, inputs: ModelInputs) -> ModelInputs:
        """Fill the slots, and set the text's positions after those of the states."""
        self.backbone.slots.fill(self.states)
        return inputs.with_positions(self.states.position_offset)

    def neutralize(self) -> None:
        """Make the states invisible."""
        self.states = self.states.invisible()

    def reserved_positions(self, backbone: Backbone) -> int:
        """The positions before the text."""
        return int(self.states.position_offset)

    def exclusive_resources(self, backbone: Backbone) -> frozenset[Resource]:
        """The attention slots."""
        return frozenset({"attention slots"})

    @property
    def num_stored(self) -> int:
        """Size of the keys and values."""
        layers = [layer for layers in self.states.sites.values() for layer in layers if layer is not None]
        return sum(layer.key.numel() + layer.value.numel() for layer in layers)

    def export(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Refused: the states can be computed again."""
        raise ValueError("Given keys and values are not exported; start a prefix from them with `method.init`.")

    @classmethod
    def restore(cls, bundle: Bundle, backbone: Backbone) -> Self:
        """Refused: no bundle holds them."""
        raise ValueError("Given keys and values are in no bundle.")

    def _attach(self, backbone: Backbone) -> None:
        backbone.slots.acquire()

    def _detach(self) -> None:
        self.backbone.slots.release()


def matched_states(backbone: Backbone, context: list[int], texts: list[list[int]], length: int) -> PrefixStates:
    """A context compressed into few rows by attention matching, without training; texts keep their positions after it.

    Args:
        backbone: A decoder-only backbone without sliding windows.
        context: Ids of the context.
        texts: Ids of texts that follow it, whose queries are matched.
        length: Number of rows, at most the number of the context's tokens.

    Raises:
        ValueError: The backbone cannot read a context before its texts, or the context is too short.
    """
    if (problem := reading_problem(backbone)) is not None:
        raise ValueError(f"Attention matching needs a context that is read before its texts, but {problem}.")
    if length > len(context):
        raise ValueError(
            f"Attention matching needs a context of at least as many tokens as rows, but has {len(context)} for "
            f"{length} rows; ask for fewer."
        )
    layers = attention_to_context(backbone, context, texts, num_queries=_QUERIES_PER_TEXT)
    table = torch.stack([layer.table for layer in match_attention(layers, length)])
    states = PrefixStates({"decoder_self": tuple(layers_of_table(table))}, torch.tensor([len(context)]))
    return states.to(device=backbone.device, dtype=backbone.dtype)
