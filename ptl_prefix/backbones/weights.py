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
    """Some of a backbone's parameters by name, tied ones once.

    Args:
        backbone: Whose.
        choice: `all`; `biases`: those called so (BitFit, Ben Zaken et al. 2022); `top_layers`: the last layers of the
            stack that writes, and the norm behind them.
        num_top_layers: How many layers the last choice has.
    """
    named = dict(backbone.model.named_parameters())
    if choice == "all":
        return named
    if choice == "biases":
        return {name: parameter for name, parameter in named.items() if name.endswith((".bias", "_bias"))}
    stack, layers = list(stacks_of(backbone.model, backbone.config).items())[-1]
    first = len(layers) - num_top_layers
    wanted = [f"{stack}.{index}." for index in range(max(first, 0), len(layers))]
    # Beside the stack stands the norm that comes after its last layer, if the family has one.
    parent, _, _ = stack.rpartition(".")
    norms = [f"{parent}.{name}." for name in ("ln_f", "norm", "final_layer_norm", "layer_norm")]
    return {name: parameter for name, parameter in named.items() if name.startswith((*wanted, *norms))}


class ParameterOverrides:
    """Tensors that act as a model's parameters.

    A module finds an attribute of its own before it looks among its parameters; so a tensor that is set there is used
    in the parameter's place, and the parameter stays where checkpoints, counts and devices are read.

    Args:
        model: The model.
        weights: The parameters that may be stood in for, by name.
    """

    def __init__(self, model: nn.Module, weights: Mapping[str, nn.Parameter]) -> None:
        names = {id(parameter): name for name, parameter in weights.items()}
        # A tied parameter has several places.
        self._places = [
            (module, attribute, names[id(parameter)])
            for module in model.modules()
            for attribute, parameter in module._parameters.items()
            if parameter is not None and id(parameter) in names
        ]

    def set(self, tensors: Mapping[str, Tensor]) -> None:
        """Let `tensors`, by the parameters' names, act from now on."""
        for module, attribute, name in self._places:
            vars(module)[attribute] = tensors[name]

    def clear(self) -> None:
        """Let the parameters themselves act again."""
        for module, attribute, _ in self._places:
            vars(module).pop(attribute, None)
