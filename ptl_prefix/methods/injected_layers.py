"""What PEFT's layers share as methods: they stand in the place of a backbone's own linear modules while attached.

In: a backbone, once, and which of its linear modules are meant. Out: the same model, some of whose modules are PEFT's,
each around the one that it replaced; later the very modules that were there. PEFT's layers are used one by one: its
model classes would also mark the model itself.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from ptl_prefix.artifacts.bundle import Bundle
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.linear_sites import (
    LINEAR_NAMES,
    LinearNames,
    LinearSite,
    linear_sites,
    replace_module,
    sites_named,
)
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.errors import BackboneError, RunError
from ptl_prefix.methods.method import Method, Resource

ADAPTER = "default"
"""What PEFT's layers call the one set of numbers that each of them holds."""


class InjectedLayers(Method):
    """Adapts by layers that stand around some of the backbone's linear modules.

    Args:
        name: What runs and records call it.
        default_lr: The learning rate where a run chooses none.
        target_modules: Names of the linear modules, each the end of one path or of several; `None` is the family's.
        match_parameters: Numbers to store, for which a size is chosen; `None`: the size is as configured.
    """

    can_be_merged = True
    is_exclusive = True

    def __init__(
        self,
        *,
        name: str,
        default_lr: float,
        target_modules: Sequence[str] | None,
        match_parameters: int | None = None,
    ) -> None:
        super().__init__(name=name, default_lr=default_lr, match_parameters=match_parameters)
        self.target_modules = target_modules
        # Not registered: they are part of the model while attached, and hold a part of it.
        self._layers: dict[str, Any] = {}

    def exclusive_resources(self, backbone: Backbone) -> frozenset[Resource]:
        """The weights, also those that it does not stand around: of two such methods each would see the other's."""
        return frozenset({"weights"})

    @abstractmethod
    def _default_names(self, names: LinearNames) -> list[str]:
        """The names that `target_modules: null` means in a family."""

    @abstractmethod
    def _wrap(self, site: LinearSite) -> Any:
        """PEFT's layer around a linear module, at its starting point."""

    @abstractmethod
    def _trainable_in(self, layer: Any) -> Mapping[str, nn.Parameter]:
        """What is trained in one layer, by a name that bundles keep."""

    @abstractmethod
    def _settings(self) -> dict[str, Any]:
        """What a bundle must say besides the names of the modules."""

    def names_in(self, backbone: Backbone) -> list[str]:
        """The names of the linear modules that are adapted in a backbone."""
        if self.target_modules is not None:
            return list(self.target_modules)
        return list(dict.fromkeys(self._default_names(LINEAR_NAMES[backbone.family])))

    def problems(self, backbone: Backbone) -> list[str]:
        """Names that no linear module has."""
        sites = linear_sites(backbone)
        known = ", ".join(sorted({site.path.rpartition(".")[2] for site in sites}))
        misfits = [
            f"`method.target_modules` must name linear modules of the backbone, but '{name}' is not one of "
            f"{backbone.name}'s ({known})."
            for name in self.names_in(backbone)
            if not any(site.is_named(name) for site in sites)
        ]
        if not self.names_in(backbone):
            misfits.append(f"`method.target_modules` must name at least one linear module, but is empty ({known}).")
        return misfits

    def attach(self, backbone: Backbone) -> Self:
        """As every method; two that replace linear modules would each take the other's for the backbone's own."""
        if not self.is_attached and any(isinstance(module, BaseTunerLayer) for module in backbone.model.modules()):
            raise BackboneError(
                f"A backbone's linear modules must be its own before '{self.name}' replaces some, but those of "
                f"{backbone.name} are replaced already; detach the other method first."
            )
        return super().attach(backbone)

    def _attach(self, backbone: Backbone) -> None:
        for site in sites_named(backbone, self.names_in(backbone)):
            if site.path in self._layers:
                self._layers[site.path].base_layer = site.module
            else:
                self._layers[site.path] = self._wrap(site)
            replace_module(backbone.model, site.path, self._layers[site.path])
        for parameter in self.trainable_parameters().values():
            parameter.data = parameter.data.to(backbone.device, torch.float32)
        self.train(self.training)

    def _detach(self) -> None:
        for path, layer in self._layers.items():
            replace_module(self.backbone.model, path, layer.base_layer)

    def train(self, mode: bool = True) -> Self:
        """The layers follow the method; the modules that they stand around follow the backbone."""
        super().train(mode)
        for layer in self._layers.values():
            backbone_s = layer.base_layer.training
            layer.train(mode)
            layer.base_layer.train(backbone_s)
        return self

    def condition(self, inputs: ModelInputs) -> ModelInputs:
        """Nothing but positions: what the method does, it does in the layers."""
        return inputs.with_positions(self.position_offset)

    def neutralize(self) -> None:
        """Let every layer do what the one inside does."""
        for layer in self._layers.values():
            layer.enable_adapters(False)

    def trainable_parameters(self) -> Mapping[str, nn.Parameter]:
        """What is trained in every layer, as `<path>.<name>`."""
        return {
            f"{path}.{name}": parameter
            for path, layer in self._layers.items()
            for name, parameter in self._trainable_in(layer).items()
        }

    @property
    def num_stored(self) -> int:
        """As many as are trained."""
        return self.num_trainable

    def export(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The trained numbers as they are, float32, as `<path>.<name>`."""
        tensors = {name: parameter.detach().cpu() for name, parameter in self.trainable_parameters().items()}
        return {"target_modules": self.names_in(self.backbone), **self._settings()}, tensors

    def _loaded(self, bundle: Bundle, backbone: Backbone) -> Self:
        """This method, attached and with a bundle's numbers; on failure the backbone is as it was."""
        self.attach(backbone)
        try:
            self.load_trainable_parameters(bundle.tensors)
        except RunError as error:
            self.detach()
            raise ValueError("its tensors are not those that its settings ask for.") from error
        return self.eval()

    @contextmanager
    def merged(self) -> Iterator[None]:
        """Inside, the backbone's own modules stand in their places, with weights that compute what the layers do."""
        if self.backbone.quantization is not None:
            raise ValueError(
                f"A method must have whole weights to be merged into, but those of {self.backbone.name} are quantised "
                f"({self.backbone.quantization}); export it as a bundle."
            )
        model, own = self.backbone.model, {}
        try:
            for path, layer in self._layers.items():
                own[path] = {name: parameter.data for name, parameter in layer.base_layer.named_parameters()}
                layer.merge(safe_merge=True)  # into a copy: the numbers kept here stay as they are
                replace_module(model, path, layer.base_layer)
            yield
        finally:
            for path, weights in own.items():
                layer = self._layers[path]
                layer.merged_adapters.clear()
                for name, weight in weights.items():
                    layer.base_layer.get_parameter(name).data = weight
                replace_module(model, path, layer)
