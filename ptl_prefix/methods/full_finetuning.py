"""Full fine-tuning, and its cheap relatives: the biases alone (BitFit), or the top layers.

In: a backbone, once; a batch, per forward. Out: the backbone computing with trained copies of its weights.

The copies are float32, whatever the backbone computes in, since small updates are lost in bfloat16; before each forward
they are cast and stand in for the frozen weights, which never change: `detach` gives the backbone back bit for bit.
Memory is the price: the frozen weights, the copies, their gradients and Adam's two moments.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Self

from annotated_types import Ge, Gt
from torch import Tensor, nn

from ptl_prefix.artifacts.bundle import Bundle
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.backbones.weights import Choice, ParameterOverrides, select_parameters
from ptl_prefix.methods.method import Method, Resource
from ptl_prefix.settings import settings_from


class FullFinetuning(Method):
    """Trains the backbone's own weights.

    Args:
        name: What runs and records call it.
        default_lr: The learning rate where a run chooses none.
        match_parameters: Numbers to store, for which the number of top layers is chosen; `None`: as configured.
        trained: `all` weights, the `biases`, or the `top_layers` of the stack that writes, with the norm behind them.
        num_top_layers: How many layers those are.
    """

    kind = "full_finetuning"
    can_be_merged = True
    is_exclusive = True
    base_mode = "train"  # as models are fine-tuned: Li & Liang, Ben Zaken et al. by transformers' own training loop

    @settings_from("method/full_finetuning")
    def __init__(
        self,
        *,
        name: str,
        default_lr: Annotated[float, Gt(0)],
        match_parameters: Annotated[int, Ge(1)] | None,
        trained: Choice,
        num_top_layers: Annotated[int, Ge(1)],
    ) -> None:
        super().__init__(name=name, default_lr=default_lr, match_parameters=match_parameters)
        self.trained = trained
        self.num_top_layers = num_top_layers
        self._names: tuple[str, ...] = ()
        self._copies = nn.ParameterList()
        self._stand_ins: ParameterOverrides | None = None
        self._is_neutral = False

    @property
    def size_setting(self) -> str | None:
        """The number of layers; all weights, or all biases, are no choice."""
        return "num_top_layers" if self.trained == "top_layers" else None

    def exclusive_resources(self, backbone: Backbone) -> frozenset[Resource]:
        """The weights."""
        return frozenset({"weights"})

    def direct_weight_access(self, backbone: Backbone) -> str:
        """Copies act in their place."""
        return "trains copies of the weights"

    def problems(self, backbone: Backbone) -> list[str]:
        """A choice that is nothing in this backbone, or more than it has."""
        if misfits := self.quantization_problems(backbone, does=self.direct_weight_access(backbone)):
            return misfits
        if self.trained == "biases" and not self._chosen(backbone):
            return [
                f"`method.trained` must name weights that {backbone.name} has, but is biases and it has none; "
                "choose another method."
            ]
        depth = list(backbone.geometry.values())[-1].num_layers
        if self.trained == "top_layers" and self.num_top_layers > depth:
            return [
                f"`method.num_top_layers` must be at most the {depth} of {backbone.name}, but is {self.num_top_layers}."
            ]
        return []

    def _chosen(self, backbone: Backbone) -> dict[str, nn.Parameter]:
        return select_parameters(backbone, self.trained, num_top_layers=self.num_top_layers)

    def _attach(self, backbone: Backbone) -> None:
        chosen = self._chosen(backbone)
        if not self._names:
            self._names = tuple(chosen)
            self._copies = nn.ParameterList(weight.detach().float().clone() for weight in chosen.values())
        self._stand_ins = ParameterOverrides(backbone.model, chosen)

    def _detach(self) -> None:
        assert self._stand_ins is not None
        self._stand_ins.clear()
        self._stand_ins = None

    def condition(self, inputs: ModelInputs) -> ModelInputs:
        """Let the copies, as they are now, stand in for the weights."""
        backbone = self.backbone
        assert self._stand_ins is not None
        if not self._is_neutral:
            copies = self.trainable_parameters().items()
            self._stand_ins.set({name: copy.to(backbone.device, backbone.dtype) for name, copy in copies})
        return inputs.with_positions()

    def neutralize(self) -> None:
        """Let the frozen weights act."""
        self._is_neutral = True
        if self._stand_ins is not None:
            self._stand_ins.clear()

    @contextmanager
    def merged(self) -> Iterator[None]:
        """Inside, the weights themselves are what was trained, in the backbone's dtype."""
        assert self._stand_ins is not None
        self._stand_ins.clear()
        weights = self._chosen(self.backbone)
        frozen = {name: weight.data for name, weight in weights.items()}
        try:
            for name, copy in self.trainable_parameters().items():
                weights[name].data = copy.detach().to(self.backbone.device, self.backbone.dtype)
            yield
        finally:
            for name, data in frozen.items():
                weights[name].data = data

    def trainable_parameters(self) -> Mapping[str, nn.Parameter]:
        """The copies, by the weights' names in the model."""
        return dict(zip(self._names, self._copies, strict=True))

    @property
    def is_whole_model(self) -> bool:
        """When every weight is trained."""
        return self.trained == "all"

    @property
    def num_stored(self) -> int:
        """Every weight that is trained."""
        return self.num_trainable

    def export(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The copies, float32, by the weights' names in the model."""
        settings = {"trained": self.trained, "num_top_layers": self.num_top_layers}
        return settings, {name: copy.detach().cpu().clone() for name, copy in self.trainable_parameters().items()}

    @classmethod
    def restore(cls, bundle: Bundle, backbone: Backbone) -> Self:
        """The weights that a bundle holds."""
        method = cls(name=bundle.manifest.method, **bundle.manifest.settings).attach(backbone)
        method.load_trainable_parameters(bundle.tensors)
        return method.eval()
