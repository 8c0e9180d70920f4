"""The base of methods that wrap modules of the backbone, mostly linear ones, in PEFT's layers.

In: a backbone, once, and the names of modules. Out: the same model, with a PEFT layer around each of these modules
until the method is detached.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from ptl_prefix.artifacts.bundle import Bundle
from ptl_prefix.backbones.attention_sites import layer_index
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.linear_sites import (
    LINEAR_NAMES,
    LinearNames,
    LinearSite,
    linear_sites,
    replace_module,
)
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.errors import BackboneError, RunError
from ptl_prefix.methods.method import Method, Resource

ADAPTER = "default"
"""The adapter name in PEFT's layers; each layer has one adapter."""


class InjectedLayers(Method):
    """Wraps some of the backbone's linear modules.

    Args:
        name: Name of the method in run folders and records.
        default_lr: Learning rate of a run that sets none.
        target_modules: Names of the linear modules to wrap, each the end of one or several paths; `None` is the
            method's default.
        match_parameters: Number of stored parameters to come closest to, by choosing the size; `None` uses the
            configured size.
    """

    can_be_merged = True
    is_exclusive = True
    _noun = "linear module"
    """What the method wraps, in messages."""

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
        # Not registered as submodules: while attached they are part of the model, and contain its modules.
        self._layers: dict[str, Any] = {}

    def exclusive_resources(self, backbone: Backbone) -> frozenset[Resource]:
        """All weights, not only the wrapped ones: of two such methods one would wrap the other's layers."""
        return frozenset({"weights"})

    @abstractmethod
    def _default_names(self, names: LinearNames) -> list[str]:
        """The names that `target_modules: null` stands for in a family."""

    @abstractmethod
    def _wrap(self, backbone: Backbone, sites: Sequence[LinearSite]) -> Mapping[str, Any]:
        """New PEFT layers around modules, by the modules' paths."""

    def _sites(self, backbone: Backbone) -> list[LinearSite]:
        """The modules that can be wrapped."""
        return linear_sites(backbone)

    def _named_sites(self, backbone: Backbone) -> list[LinearSite]:
        """The modules that are wrapped."""
        names = self.names_in(backbone)
        return [site for site in self._sites(backbone) if any(site.is_named(name) for name in names)]

    @abstractmethod
    def _trainable_in(self, layer: Any) -> Mapping[str, nn.Parameter]:
        """The trainable parameters of one layer, by their names in bundles."""

    @abstractmethod
    def _settings(self) -> dict[str, Any]:
        """The settings that a bundle stores besides `target_modules`."""

    def names_in(self, backbone: Backbone) -> list[str]:
        """The names of the modules that are wrapped in this backbone."""
        if self.target_modules is not None:
            return list(self.target_modules)
        return list(dict.fromkeys(self._default_names(LINEAR_NAMES[backbone.family])))

    def incompatibilities(self, backbone: Backbone) -> list[str]:
        """Names that match no linear module."""
        sites = self._sites(backbone)
        known = ", ".join(sorted({site.path.rpartition(".")[2] for site in sites}))
        problems = [
            f"`method.target_modules` must name {self._noun}s of the backbone, but '{name}' is not one of "
            f"{backbone.name}'s ({known})."
            for name in self.names_in(backbone)
            if not any(site.is_named(name) for site in sites)
        ]
        if not self.names_in(backbone):
            problems.append(f"`method.target_modules` must name at least one {self._noun}, but is empty ({known}).")
        return problems

    def attach(self, backbone: Backbone) -> Self:
        """As every method; two that replace linear modules would each take the other's for the backbone's own."""
        if not self.is_attached and any(isinstance(module, BaseTunerLayer) for module in backbone.model.modules()):
            raise BackboneError(
                f"A backbone's linear modules must be its own before '{self.name}' replaces some, but those of "
                f"{backbone.name} are replaced already; detach the other method first."
            )
        return super().attach(backbone)

    def _attach(self, backbone: Backbone) -> None:
        sites = self._named_sites(backbone)
        if not self._layers:
            self._layers.update(self._wrap(backbone, sites))
        for site in sites:
            self._layers[site.path].base_layer = site.module
            replace_module(backbone.model, site.path, self._layers[site.path])
        for parameter in self.trainable_parameters().values():
            parameter.data = parameter.data.to(backbone.device, torch.float32)
        self.train(self.training)

    def _detach(self) -> None:
        for path, layer in self._layers.items():
            replace_module(self.backbone.model, path, layer.base_layer)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the layers; the modules inside keep the backbone's mode."""
        super().train(mode)
        for layer in self._layers.values():
            base_mode = layer.base_layer.training
            layer.train(mode)
            layer.base_layer.train(base_mode)
        return self

    def first_layer(self, backbone: Backbone) -> int:
        """The lowest layer with a wrapped module."""
        # While the method is attached, the backbone's modules are inside those that wrap them.
        paths = self._layers or [site.path for site in self._named_sites(backbone)]
        return 0 if backbone.is_encoder_decoder else min(layer_index(backbone.config, path) for path in paths)

    def condition(self, inputs: ModelInputs) -> ModelInputs:
        """Set the positions; the wrapped layers do the rest."""
        return inputs.with_positions(self.position_offset)

    def neutralize(self) -> None:
        """Disable PEFT's adapters: every layer computes as the module inside it."""
        for layer in self._layers.values():
            layer.enable_adapters(False)

    def trainable_parameters(self) -> Mapping[str, nn.Parameter]:
        """The trainable parameters of every layer, as `<path>.<name>`."""
        return {
            f"{path}.{name}": parameter
            for path, layer in self._layers.items()
            for name, parameter in self._trainable_in(layer).items()
        }

    @property
    def num_stored(self) -> int:
        """The number of trainable parameters."""
        return self.num_trainable

    def export(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The trained parameters, float32, as `<path>.<name>`."""
        tensors = {name: parameter.detach().cpu() for name, parameter in self.trainable_parameters().items()}
        return {"target_modules": self.names_in(self.backbone), **self._settings()}, tensors

    def _loaded(self, bundle: Bundle, backbone: Backbone) -> Self:
        """Attach this method with a bundle's parameters; on failure the backbone is left unchanged."""
        self.attach(backbone)
        try:
            self.load_trainable_parameters(bundle.tensors)
        except RunError as error:
            self.detach()
            raise ValueError("its tensors do not match its settings.") from error
        return self.eval()

    @contextmanager
    def merged(self) -> Iterator[None]:
        """Inside, the model has its own modules again, with the adapters merged into their weights."""
        if self.backbone.quantization is not None:
            raise ValueError(
                f"`backbone.quantization` must be null to merge a method into the weights, but is "
                f"{self.backbone.quantization} for {self.backbone.name}; export it as a bundle."
            )
        model, original = self.backbone.model, {}
        try:
            for path, layer in self._layers.items():
                original[path] = {name: parameter.data for name, parameter in layer.base_layer.named_parameters()}
                layer.merge(safe_merge=True)  # into a copy; the original weights are kept
                replace_module(model, path, layer.base_layer)
            yield
        finally:
            for path, weights in original.items():
                layer = self._layers[path]
                layer.merged_adapters.clear()
                for name, weight in weights.items():
                    layer.base_layer.get_parameter(name).data = weight
                replace_module(model, path, layer)
