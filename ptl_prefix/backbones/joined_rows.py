"""Batches of several prefixes as one batch: each keeps its own prefix, of its own length, and its own positions.

In: batches that their methods have conditioned, with the prefixes that these put into the slots. Out: one batch and one
filling of the slots, in which every row computes what it computes in a batch of its own: a row attends to its own
prefix and text only, and what is added on its right or before its prefix is invisible.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.backbones.prefix_slots import PrefixSlots
from ptl_prefix.backbones.prefix_states import LayerStates, PrefixStates
from ptl_prefix.backbones.text_layout import NO_PART, TextLayout


@dataclass(frozen=True)
class ConditionedRows:
    """Rows with the prefix that they attend to.

    Args:
        inputs: The text, with its positions; padded on the right.
        sites: The prefix of each attention module: one row, or one for each row of the text.
    """

    inputs: ModelInputs
    sites: Mapping[str, tuple[LayerStates | None, ...]]

    @property
    def num_columns(self) -> int:
        """Columns of the widest text, and positions of the longest prefix before it."""
        written = self.inputs.decoder_input_ids
        text = max(self.inputs.input_ids.shape[1], 0 if written is None else written.shape[1])
        return text + max((layer.length for layers in self.sites.values() for layer in layers if layer), default=0)

    def fill(self, slots: PrefixSlots) -> None:
        """Put the prefixes into the slots."""
        slots.fill(self.states())

    def with_leaves(self) -> tuple["ConditionedRows", list[Tensor], list[Tensor]]:
        """The same rows cut off from the graph of their prefix.

        Returns:
            The rows; the keys and values that have a gradient; and the leaves that take their places, in that order.
        """
        sources: list[Tensor] = []
        leaves: list[Tensor] = []

        def leaf(tensor: Tensor) -> Tensor:
            if not tensor.requires_grad:
                return tensor
            sources.append(tensor)
            leaves.append(tensor.detach().requires_grad_())
            return leaves[-1]

        sites = {
            site: tuple(layer and replace(layer, key=leaf(layer.key), value=leaf(layer.value)) for layer in layers)
            for site, layers in self.sites.items()
        }
        return ConditionedRows(self.inputs, sites), sources, leaves

    def states(self) -> PrefixStates:
        """The prefixes with a row for each row of the text; the positions of the text are set already."""
        rows = self.inputs.num_rows
        sites = {site: tuple(layer and layer.for_rows(rows) for layer in layers) for site, layers in self.sites.items()}
        return PrefixStates(sites, torch.zeros(rows, dtype=torch.long, device=self.inputs.input_ids.device))


def take_conditioned(slots: PrefixSlots, inputs: ModelInputs) -> ConditionedRows | None:
    """Take what a method has put into the slots, which are empty afterwards.

    Args:
        slots: The slots of the backbone.
        inputs: The inputs that the method has conditioned.

    Returns:
        The rows; `None`, with the slots as they are, if they cannot share a forward pass with others.
    """
    if slots.filled_additions() or inputs.prompt_rows is not None:
        return None
    rows = ConditionedRows(inputs, slots.filled())
    slots.clear()
    return rows


def join_rows(batches: Sequence[ConditionedRows]) -> ConditionedRows:
    """Several batches as one, its rows in their order.

    Args:
        batches: Batches of one backbone, of which all or none have a layout; at least one.
    """
    if len(batches) == 1:
        return batches[0]
    states = PrefixStates.stack([batch.states() for batch in batches])
    texts = [batch.inputs for batch in batches]
    layouts = [text.layout for text in texts if text.layout is not None]
    first = texts[0]
    inputs = ModelInputs(
        input_ids=_joined([text.input_ids for text in texts]),
        attention_mask=_joined([text.attention_mask for text in texts]),
        position_ids=_joined_if_there([text.position_ids for text in texts]),
        decoder_input_ids=_joined_if_there([text.decoder_input_ids for text in texts]),
        decoder_attention_mask=_joined_if_there([text.decoder_attention_mask for text in texts]),
        layout=None
        if first.layout is None
        else TextLayout(
            part=_joined([layout.part for layout in layouts], NO_PART),
            continues=_joined([layout.continues for layout in layouts], NO_PART),
            positions=_joined([layout.positions for layout in layouts]),
        ),
    )
    return ConditionedRows(inputs, states.sites)


def _joined(parts: Sequence[Tensor], value: int = 0) -> Tensor:
    """The rows of all parts, each filled up on the right with a value that no query sees."""
    width = max(part.shape[1] for part in parts)
    return torch.cat([nn.functional.pad(part, (0, width - part.shape[1]), value=value) for part in parts])


def _joined_if_there(parts: Sequence[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return _joined(present) if present else None
