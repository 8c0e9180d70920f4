"""IA3 (Liu et al., 2022): trainable factors for keys, values and the inner activations of feed-forward layers.

In: a backbone, once. Out: l * (W x), or W (l * x), in place of W x in some linear modules, by PEFT's layers; l is a
trainable vector, initialised with 1, so that training starts from the bare backbone.

Difference from the paper: if one matrix computes queries, keys and values (GPT-2, GPT-NeoX), all three are multiplied,
as in PEFT.
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
    """Multiplies activations by trainable factors.

    Args:
        name: Name of the method in run folders and records.
        default_lr: Learning rate of a run that sets none.
        target_modules: Names of the linear modules to adapt, each the end of one or several paths; `None` is the key
            and value projections and the down projection of the feed-forward layers, as in the paper.
        feedforward_modules: Names of those modules whose inputs, not outputs, are multiplied; `None` is the down
            projection of the feed-forward layers.
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

    def incompatibilities(self, backbone: Backbone) -> list[str]:
        """Unknown modules, and feed-forward modules that are not among the adapted ones."""
        names = self.names_in(backbone)
        adapted = self._adapted_among(self.feedforward_modules or (), backbone)
        return super().incompatibilities(backbone) + [
            f"`method.feedforward_modules` must be among the adapted modules ({', '.join(names)}), but '{name}' is not."
            for name in self.feedforward_modules or ()
            if name not in adapted
        ]

    @classmethod
    def restore(cls, bundle: Bundle, backbone: Backbone) -> Self:
        """Build the method of a bundle, and attach it to `backbone`."""
        return cls(name=bundle.manifest.method, **bundle.manifest.settings)._loaded(bundle, backbone)

    def _attach(self, backbone: Backbone) -> None:
        default = [LINEAR_NAMES[backbone.family].narrowing]
        names = default if self.feedforward_modules is None else self.feedforward_modules
        self._feedforward = self._adapted_among(names, backbone)
        super()._attach(backbone)

    def _adapted_among(self, names: Sequence[str], backbone: Backbone) -> list[str]:
        adapted = sites_named(backbone, self.names_in(backbone))
        return [name for name in names if any(site.is_named(name) for site in adapted)]

    def _default_names(self, names: LinearNames) -> list[str]:
        return [names.key, names.value, names.narrowing]

    def _wrap(self, backbone: Backbone, sites: Sequence[LinearSite]) -> Mapping[str, Linear]:
        return {site.path: self._layer_around(site) for site in sites}

    def _layer_around(self, site: LinearSite) -> Linear:
        multiplies_inputs = any(site.is_named(name) for name in self._feedforward)
        config = IA3Config(fan_in_fan_out=site.is_transposed)
        return Linear(site.module, ADAPTER, config, is_feedforward=multiplies_inputs)

    def _trainable_in(self, layer: Any) -> Mapping[str, nn.Parameter]:
        return {"factors": layer.ia3_l[ADAPTER]}

    def _settings(self) -> dict[str, Any]:
        return {"feedforward_modules": self._feedforward}
