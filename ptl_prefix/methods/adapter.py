"""Bottleneck adapters: small trainable networks after the sublayers of a frozen model.

In: a backbone, once. Out: h + W_up f(W_down h + b_down) + b_up in place of the output h of a sublayer, before it is
added to the residual stream.

`houlsby` (Houlsby et al., 2019) puts an adapter after every attention and feed-forward sublayer: two per layer, and
three in the decoder layers of an encoder-decoder, which have cross-attention. `pfeiffer` (Pfeiffer et al., 2021) puts
one after the feed-forward sublayer only.

Differences from the papers: W_up is initialised with zeros, so that training starts from the bare backbone, where
Houlsby et al. draw small numbers; the backbone's layer norms stay frozen, where the papers train them.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

import torch
from annotated_types import Ge, Gt
from jaxtyping import Float
from torch import Tensor, nn

from ptl_prefix.artifacts.bundle import Bundle
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.backbones.sublayers import FEED_FORWARD, sublayer_ends
from ptl_prefix.methods.method import Method, Resource
from ptl_prefix.settings import settings_from

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": nn.functional.gelu,
    "relu": nn.functional.relu,
    "silu": nn.functional.silu,
    "tanh": torch.tanh,
}


class Bottleneck(nn.Module):
    """One adapter; initialised as the identity.

    Args:
        width: Width of the residual stream.
        bottleneck_size: Width between the two projections.
        activation: Name of the activation between them, a key of `_ACTIVATIONS`.
    """

    def __init__(self, width: int, bottleneck_size: int, activation: str) -> None:
        super().__init__()
        self.down = nn.Linear(width, bottleneck_size)
        self.up = nn.Linear(bottleneck_size, width)
        self.activation = _ACTIVATIONS[activation]
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, hidden: Float[Tensor, "*tokens width"]) -> Float[Tensor, "*tokens width"]:
        """Compute in the dtype of `hidden`; the parameters stay in float32."""
        return hidden + _projected(self.activation(_projected(hidden, self.down)), self.up)


def _projected(hidden: Tensor, linear: nn.Linear) -> Tensor:
    return nn.functional.linear(hidden, linear.weight.to(hidden.dtype), linear.bias.to(hidden.dtype))


class Adapter(Method):
    """Puts a bottleneck adapter after the sublayers of every layer.

    Args:
        name: Name of the method in run folders and records.
        default_lr: Learning rate of a run that sets none.
        match_parameters: Number of stored parameters to come closest to, by choosing the bottleneck; `None` uses
            `bottleneck_size`.
        placement: Sublayers that get an adapter: `houlsby` attention and feed-forward, `pfeiffer` feed-forward only.
        bottleneck_size: Width between the two projections.
        activation: Activation between the two projections.
    """

    kind = "adapter"
    base_mode = "train"  # both papers train with the backbone's dropout

    @settings_from("method/adapter")
    def __init__(
        self,
        *,
        name: str,
        default_lr: Annotated[float, Gt(0)],
        match_parameters: Annotated[int, Ge(1)] | None,
        placement: Literal["houlsby", "pfeiffer"],
        bottleneck_size: Annotated[int, Ge(1)],
        activation: Literal["gelu", "relu", "silu", "tanh"],
    ) -> None:
        super().__init__(name=name, default_lr=default_lr, match_parameters=match_parameters)
        self.placement = placement
        self.bottleneck_size = bottleneck_size
        self.activation = activation
        self.bottlenecks = nn.ModuleDict()
        self._undo: list[Callable[[], None]] = []
        self._is_active = False
        self._neutral = False

    @property
    def size_setting(self) -> str:
        """The width of the bottleneck."""
        return "bottleneck_size"

    def exclusive_resources(self, backbone: Backbone) -> frozenset[Resource]:
        """The outputs of sublayers."""
        return frozenset({"sublayer outputs"})

    def _attach(self, backbone: Backbone) -> None:
        ends = {
            kind: modules
            for kind, modules in sublayer_ends(backbone.model, backbone.config).items()
            if self.placement == "houlsby" or kind.endswith(FEED_FORWARD)
        }
        if not self.bottlenecks:
            with torch.device(backbone.device):
                for kind, modules in ends.items():
                    made = [Bottleneck(backbone.hidden_size, self.bottleneck_size, self.activation) for _ in modules]
                    self.bottlenecks[kind] = nn.ModuleList(made)
        for kind, modules in ends.items():
            bottlenecks: Any = self.bottlenecks[kind]
            for module, bottleneck in zip(modules, bottlenecks, strict=True):
                self._undo.append(module.register_forward_hook(self._hook(bottleneck)).remove)
        self._undo.append(backbone.slots.on_clear(self._deactivate))

    def _hook(self, bottleneck: nn.Module) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
        """A forward hook that applies a bottleneck while the method is active."""
        return lambda module, arguments, output: bottleneck(output) if self._is_active else None

    def _detach(self) -> None:
        self._deactivate()
        for undo in self._undo:
            undo()
        self._undo.clear()

    def _deactivate(self) -> None:
        """Have no effect until the next `condition`, so that other methods can use the backbone."""
        self._is_active = False

    def condition(self, inputs: ModelInputs) -> ModelInputs:
        """Activate the adapters, for this thread, until the slots are cleared; of the inputs only positions change."""
        self.backbone.slots.claim()
        self._is_active = not self._neutral
        return inputs.with_positions()

    def neutralize(self) -> None:
        """Leave the outputs of sublayers unchanged."""
        self._neutral = True

    @property
    def num_stored(self) -> int:
        """The number of trainable parameters: 2 x width x bottleneck_size + width + bottleneck_size per sublayer."""
        return self.num_trainable

    def export(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Both projections of every bottleneck, float32: `<sublayer>.<layer>.<down or up>.<weight or bias>`."""
        settings = {
            "placement": self.placement,
            "bottleneck_size": self.bottleneck_size,
            "activation": self.activation,
        }
        return settings, {name: tensor.cpu().clone() for name, tensor in self.bottlenecks.state_dict().items()}

    @classmethod
    def restore(cls, bundle: Bundle, backbone: Backbone) -> Self:
        """Build the method of a bundle, and attach it to `backbone`."""
        method = cls(name=bundle.manifest.method, **bundle.manifest.settings).attach(backbone)
        try:
            method.bottlenecks.load_state_dict(bundle.tensors)
        except RuntimeError:
            method.detach()
            raise
        return method.eval()
