"""Bottleneck adapters: small trained networks behind the sublayers of a frozen model.

In: a backbone, once. Out: in every forward h + W_up f(W_down h + b_down) + b_up in place of what a sublayer gives, just
before it is added to the residual stream.

`houlsby` (Houlsby et al., 2019) puts one behind every attention and every feed-forward sublayer: two a layer, and three
in the decoder layers of an encoder-decoder, whose cross-attention is a sublayer too. `pfeiffer` (Pfeiffer et al., 2021)
puts one behind the feed-forward alone.

Differences from the papers: W_up starts at zero, so that an adapted backbone starts as exactly the bare one, where
Houlsby et al. draw small numbers; the backbone's own norms stay frozen, where they are trained.
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
    """One adapter; as drawn, the identity.

    Args:
        width: Of the residual stream.
        bottleneck_size: Numbers between the projections.
        activation: Between them; a name of `_ACTIVATIONS`.
    """

    def __init__(self, width: int, bottleneck_size: int, activation: str) -> None:
        super().__init__()
        self.down = nn.Linear(width, bottleneck_size)
        self.up = nn.Linear(bottleneck_size, width)
        self.activation = _ACTIVATIONS[activation]
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, hidden: Float[Tensor, "*tokens width"]) -> Float[Tensor, "*tokens width"]:
        """In the dtype of what comes in; the parameters stay as they are."""
        return hidden + _projected(self.activation(_projected(hidden, self.down)), self.up)


def _projected(hidden: Tensor, linear: nn.Linear) -> Tensor:
    return nn.functional.linear(hidden, linear.weight.to(hidden.dtype), linear.bias.to(hidden.dtype))


class Adapter(Method):
    """Puts a bottleneck behind the sublayers of every layer.

    Args:
        name: What runs and records call it.
        default_lr: The learning rate where a run chooses none.
        match_parameters: Numbers to store, for which the bottleneck is chosen; `None`: `bottleneck_size` says.
        placement: `houlsby`: behind attention and feed-forward; `pfeiffer`: behind feed-forward alone.
        bottleneck_size: Numbers between the two projections.
        activation: What is between them.
    """

    kind = "adapter"
    base_mode = "train"  # both papers fine-tune as usual but for what is frozen

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
        self._at_work = False
        self._neutral = False

    @property
    def size_setting(self) -> str:
        """The bottleneck's width."""
        return "bottleneck_size"

    def exclusive_resources(self, backbone: Backbone) -> frozenset[Resource]:
        """What sublayers give."""
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
                self._undo.append(module.register_forward_hook(self._behind(bottleneck)).remove)
        self._undo.append(backbone.slots.on_clear(self._rest))

    def _behind(self, bottleneck: nn.Module) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
        """A forward hook; while the adapter rests it changes nothing."""
        return lambda module, arguments, output: bottleneck(output) if self._at_work else None

    def _detach(self) -> None:
        self._rest()
        for undo in self._undo:
            undo()
        self._undo.clear()

    def _rest(self) -> None:
        """Leave the backbone to others, until the next `condition`."""
        self._at_work = False

    def condition(self, inputs: ModelInputs) -> ModelInputs:
        """Begin to work, for this thread, until the backbone is cleared; of the inputs only positions change."""
        self.backbone.slots.claim()
        self._at_work = not self._neutral
        return inputs.with_positions()

    def neutralize(self) -> None:
        """Pass on what each sublayer gives."""
        self._neutral = True

    @property
    def num_stored(self) -> int:
        """As many as are trained: 2 x width x bottleneck_size + width + bottleneck_size a sublayer."""
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
        """The adapter that a bundle holds."""
        method = cls(name=bundle.manifest.method, **bundle.manifest.settings).attach(backbone)
        try:
            method.bottlenecks.load_state_dict(bundle.tensors)
        except RuntimeError:
            method.detach()
            raise
        return method.eval()
