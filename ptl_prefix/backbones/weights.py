"""Selects parameters of the backbone by kind, and lets trained copies override them.

In: a backbone. Out: some of its parameters by name, and `ParameterOverrides`, which makes modules compute with other
tensors in place of these parameters. The parameters themselves never change: once the overrides are cleared, the model
is bit for bit what it was.
"""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor, nn

from ptl_prefix.backbones.attention_sites import stacks_of
from ptl_prefix.backbones.backbone import Backbone

Choice = Literal["all", "biases", "top_layers"]


def select_parameters(backbone: Backbone, choice: Choice, *, num_top_layers: int) -> dict[str, nn.Parameter]:
    """Select parameters of a backbone, by name; tied parameters once.

    Args:
        backbone: The backbone.
        choice: `all`; `biases` (BitFit, Ben Zaken et al., 2022); or `top_layers`: the last layers of the decoder, and
            the norm after them.
        num_top_layers: Number of layers that `top_layers` selects.
    """
    named = dict(backbone.model.named_parameters())
    if choice == "all":
        return named
    if choice == "biases":
        return {name: parameter for name, parameter in named.items() if name.endswith((".bias", "_bias"))}
    stack, layers = list(stacks_of(backbone.model, backbone.config).items())[-1]
    first = len(layers) - num_top_layers
    wanted = [f"{stack}.{index}." for index in range(max(first, 0), len(layers))]
    # The norm after the last layer is a sibling of the stack, if the family has one.
    parent, _, _ = stack.rpartition(".")
    norms = [f"{parent}.{name}." for name in ("ln_f", "norm", "final_layer_norm", "layer_norm")]
    return {name: parameter for name, parameter in named.items() if name.startswith((*wanted, *norms))}


class ParameterOverrides:
    """Makes a model compute with other tensors in place of its parameters.

    Python finds an instance attribute of a module before `nn.Module` looks among the parameters, so a tensor set as
    attribute is used instead of the parameter, which remains registered for checkpoints, counts and devices.

    Args:
        model: The model.
        weights: The parameters that can be overridden, by name.
    """

    def __init__(self, model: nn.Module, weights: Mapping[str, nn.Parameter]) -> None:
        names = {id(parameter): name for name, parameter in weights.items()}
        # A tied parameter belongs to several modules.
        self._overridden = [
            (module, attribute, names[id(parameter)])
            for module in model.modules()
            for attribute, parameter in module._parameters.items()
            if parameter is not None and id(parameter) in names
        ]

    def set(self, tensors: Mapping[str, Tensor]) -> None:
        """Compute with `tensors`, given by the parameters' names, from now on."""
        for module, attribute, name in self._overridden:
            vars(module)[attribute] = tensors[name]

    def clear(self) -> None:
        """Compute with the parameters again."""
        for module, attribute, _ in self._overridden:
            vars(module).pop(attribute, None)
