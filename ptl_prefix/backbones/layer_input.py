"""What a layer reads: a forward pass can start there, if the hidden states were computed before.

In: hidden states, and the layer that reads them. Out: `LayerInput`, and a model of which some layers are not computed.
Layers below the first one that a method changes compute the same for a text in every epoch of a training.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from jaxtyping import Shaped
from torch import Tensor, nn


@dataclass(frozen=True)
class LayerInput:
    """The hidden states that a layer of a decoder-only backbone reads.

    Args:
        layer: Index of the layer.
        states: Hidden states of each token, of one text or of a batch; any numbers where a batch is padded.
    """

    layer: int
    states: Shaped[Tensor, "*batch text width"]

    def at(self, places: slice) -> Self:
        """Those of some tokens of one text."""
        return dataclasses.replace(self, states=self.states[places])

    def to(self, device: torch.device | str) -> Self:
        """A copy on another device."""
        return dataclasses.replace(self, states=self.states.to(device))


def joined_inputs(rows: Sequence[Sequence[LayerInput]], width: int) -> LayerInput | None:
    """The input of a batch, padded with zeros on the right; `None` if its texts have none.

    Args:
        rows: For each row the inputs of its texts, which stand one after another.
        width: Number of columns of the batch.
    """
    if not any(rows):
        return None
    layer, some = rows[0][0].layer, rows[0][0].states
    states = some.new_zeros(len(rows), width, some.shape[-1])
    for row, texts in zip(states, rows, strict=True):
        joined = torch.cat([text.states for text in texts])
        row[: len(joined)] = joined
    return LayerInput(layer, states)


@contextmanager
def started_at(layers: Sequence[nn.Module], given: LayerInput | None) -> Iterator[None]:
    """Inside, a forward pass computes nothing below the layer whose input is given, and starts with that.

    Args:
        layers: All layers of the model, in the order of the forward pass.
        given: Input of one of them; `None` changes nothing.
    """
    if given is None:
        yield
        return
    hook = layers[given.layer].register_forward_pre_hook(lambda _, arguments: (given.states, *arguments[1:]))
    try:
        with left_out(layers[: given.layer]):
            yield
    finally:
        hook.remove()


@contextmanager
def left_out(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Inside, some layers compute nothing: each returns the hidden states that it reads."""
    # A layer with gradient checkpointing has a forward of its own among its attributes.
    own = [vars(layer).get("forward") for layer in layers]
    for layer in layers:
        layer.forward = _unchanged
    try:
        yield
    finally:
        for layer, forward in zip(layers, own, strict=True):
            del layer.forward
            if forward is not None:
                layer.forward = forward


def _unchanged(states: Tensor, *_: Any, **__: Any) -> Tensor:
    return states
