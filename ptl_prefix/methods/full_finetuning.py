"""Fine-tuning of all weights, of the biases alone (BitFit), or of the top layers.

In: a backbone, once; a batch, per forward pass. Out: the backbone computing with trained copies of its weights.

The copies are float32 in any dtype of the backbone, because small updates are lost in bfloat16. Before each forward
pass they are cast and override the frozen weights, which never change: `detach` restores the backbone bit for bit. This
takes memory for the frozen weights, the copies, their gradients and Adam's two moments.
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
    """Trains copies of the backbone's weights.

    Args:
        name: Name of the method in run folders and records.
        default_lr: Learning rate of a run that sets none.
        match_parameters: Number of stored parameters to come closest to, by choosing `num_top_layers`; `None` uses
            `num_top_layers`.
        trained: The weights to train: `all`, the `biases`, or the `top_layers` of the decoder, with the norm after
            them.
        num_top_layers: Number of top layers.
    """

    kind = "full_finetuning"
    can_be_merged = True
    is_exclusive = True
    base_mode = "train"  # Li & Liang and Ben Zaken et al. fine-tune with dropout, in transformers' training loop

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
        self._overrides: ParameterOverrides | None = None
        self._is_neutral = False

    @property
    def size_setting(self) -> str | None:
        """`num_top_layers` for the top layers; there is no size for all weights or all biases."""
        return "num_top_layers" if self.trained == "top_layers" else None

    def exclusive_resources(self, backbone: Backbone) -> frozenset[Resource]:
        """The weights."""
        return frozenset({"weights"})

    def direct_weight_access(self, backbone: Backbone) -> str:
        """It trains copies of the weights."""
        return "trains copies of the weights"

    def incompatibilities(self, backbone: Backbone) -> list[str]:
        """Quantised weights, a backbone without biases, and more layers than there are."""
        if problems := self.quantization_incompatibilities(backbone, use=self.direct_weight_access(backbone)):
            return problems
        if self.trained == "biases" and not self._selected(backbone):
            return [
                f"`method.trained` must select weights of {backbone.name}, but is biases and it has none; "
                "choose another method."
            ]
        depth = list(backbone.geometry.values())[-1].num_layers
        if self.trained == "top_layers" and self.num_top_layers > depth:
            return [
                f"`method.num_top_layers` must be at most the {depth} of {backbone.name}, but is {self.num_top_layers}."
            ]
        return []

    def first_layer(self, backbone: Backbone) -> int:
        """The lowest of the top layers."""
        is_above = self.trained == "top_layers" and not backbone.is_encoder_decoder
        return backbone.geometry["decoder_self"].num_layers - self.num_top_layers if is_above else 0

    def _selected(self, backbone: Backbone) -> dict[str, nn.Parameter]:
        return select_parameters(backbone, self.trained, num_top_layers=self.num_top_layers)

    def _attach(self, backbone: Backbone) -> None:
        selected = self._selected(backbone)
        if not self._names:
            self._names = tuple(selected)
            self._copies = nn.ParameterList(weight.detach().float().clone() for weight in selected.values())
        self._overrides = ParameterOverrides(backbone.model, selected)

    def _detach(self) -> None:
        assert self._overrides is not None
        self._overrides.clear()
        self._overrides = None

    def condition(self, inputs: ModelInputs) -> ModelInputs:
        """Override the weights with the copies, cast to the backbone's dtype."""
        backbone = self.backbone
        assert self._overrides is not None
        if not self._is_neutral:
            copies = self.trainable_parameters().items()
            self._overrides.set({name: copy.to(backbone.device, backbone.dtype) for name, copy in copies})
        return inputs.with_positions()

    def neutralize(self) -> None:
        """Compute with the frozen weights."""
        self._is_neutral = True
        if self._overrides is not None:
            self._overrides.clear()

    @contextmanager
    def merged(self) -> Iterator[None]:
        """Inside, the weights are the trained copies, in the backbone's dtype."""
        assert self._overrides is not None
        self._overrides.clear()
        weights = self._selected(self.backbone)
        frozen = {name: weight.data for name, weight in weights.items()}
        try:
            for name, copy in self.trainable_parameters().items():
                weights[name].data = copy.detach().to(self.backbone.device, self.backbone.dtype)
            yield
        finally:
            for name, data in frozen.items():
                weights[name].data = data

    def trainable_parameters(self) -> Mapping[str, nn.Parameter]:
        """The copies, by the names of the weights in the model."""
        return dict(zip(self._names, self._copies, strict=True))

    @property
    def is_whole_model(self) -> bool:
        """Whether every weight is trained."""
        return self.trained == "all"

    @property
    def num_stored(self) -> int:
        """The number of trainable parameters."""
        return self.num_trainable

    def export(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The copies, float32, by the names of the weights in the model."""
        settings = {"trained": self.trained, "num_top_layers": self.num_top_layers}
        return settings, {name: copy.detach().cpu().clone() for name, copy in self.trainable_parameters().items()}

    @classmethod
    def restore(cls, bundle: Bundle, backbone: Backbone) -> Self:
        """Build the method of a bundle, and attach it to `backbone`."""
        method = cls(name=bundle.manifest.method, **bundle.manifest.settings).attach(backbone)
        method.load_trainable_parameters(bundle.tensors)
        return method.eval()
