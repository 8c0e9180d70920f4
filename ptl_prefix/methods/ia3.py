"""IA3 (Liu et al., 2022): trained factors for keys, values and the inner activations of feed-forward layers.

In: a backbone, once. Out: some of its linear modules with each output, or each input, multiplied by a number of its
own, by PEFT's layers. All factors begin at 1, so that training begins at the bare backbone.

Difference from the paper: where a family makes queries, keys and values by one matrix (GPT-2, GPT-NeoX), all three are
multiplied, as PEFT does.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

from annotated_types import Gt
from peft import IA3Config
from peft.tuners.ia3 import Linear
from torch import nn

from ptl_prefix.artifacts.bundle import Bundle
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.linear_sites import LINEAR_NAMES, LinearNames, LinearSite, sites_named
from ptl_prefix.methods.injected_layers import ADAPTER, InjectedLayers
from ptl_prefix.settings import settings_from


class IA3(InjectedLayers):
    """Multiplies activations by trained factors.

    Args:
        name: What runs and records call it.
        default_lr: The learning rate where a run chooses none.
        target_modules: Names of the linear modules, each the end of one path or of several; `None` is keys, values and
            the end of the feed-forward layer, as in the paper.
        feedforward_modules: Which of them have their inputs multiplied, not their outputs; `None` is the end of the
            feed-forward layer.
    """

    kind = "ia3"

    @settings_from("method/ia3")
    def __init__(
        self,
        *,
        name: str,
        default_lr: Annotated[float, Gt(0)],
        target_modules: Sequence[str] | None,
        feedforward_modules: Sequence[str] | None,
    ) -> None:
        super().__init__(name=name, default_lr=default_lr, target_modules=target_modules)
        self.feedforward_modules = feedforward_modules
        self._feedforward: list[str] = []

    def problems(self, backbone: Backbone) -> list[str]:
        """Unknown modules, and feed-forward modules that are not adapted at all."""
        names = self.names_in(backbone)
        adapted = self._adapted_among(self.feedforward_modules or (), backbone)
        return super().problems(backbone) + [
            f"`method.feedforward_modules` must be among the adapted modules ({', '.join(names)}), but '{name}' is not."
            for name in self.feedforward_modules or ()
            if name not in adapted
        ]

    @classmethod
    def restore(cls, bundle: Bundle, backbone: Backbone) -> Self:
        """The factors that a bundle holds."""
        return cls(name=bundle.manifest.method, **bundle.manifest.settings)._loaded(bundle, backbone)

    def _attach(self, backbone: Backbone) -> None:
        usual = [LINEAR_NAMES[backbone.family].narrowing]
        wanted = usual if self.feedforward_modules is None else self.feedforward_modules
        self._feedforward = self._adapted_among(wanted, backbone)
        super()._attach(backbone)

    def _adapted_among(self, names: Sequence[str], backbone: Backbone) -> list[str]:
        adapted = sites_named(backbone, self.names_in(backbone))
        return [name for name in names if any(site.is_named(name) for site in adapted)]

    def _default_names(self, names: LinearNames) -> list[str]:
        return [names.key, names.value, names.narrowing]

    def _wrap(self, site: LinearSite) -> Linear:
        multiplies_inputs = any(site.is_named(name) for name in self._feedforward)
        config = IA3Config(fan_in_fan_out=site.is_transposed)
        return Linear(site.module, ADAPTER, config, is_feedforward=multiplies_inputs)

    def _trainable_in(self, layer: Any) -> Mapping[str, nn.Parameter]:
        return {"factors": layer.ia3_l[ADAPTER]}

    def _settings(self) -> dict[str, Any]:
        return {"feedforward_modules": self._feedforward}
