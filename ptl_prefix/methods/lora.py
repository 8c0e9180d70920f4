"""LoRA (Hu et al., 2022), DoRA and rsLoRA: low-rank updates of some of the backbone's weight matrices.

In: a backbone, once. Out: W x + (alpha / rank) B A x in place of W x, by PEFT's layers. A is initialised at random and
B at zero, so that training starts from the bare backbone. DoRA (Liu et al., 2024) also trains the magnitude of every
row of weights; rsLoRA (Kalajdzievski, 2023) scales by alpha / sqrt(rank).

Difference from the paper: if one matrix computes queries, keys and values (GPT-2, GPT-NeoX), it is adapted as a whole,
as in PEFT; Hu et al. do not adapt GPT-2's keys.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

from annotated_types import Ge, Gt, Lt
from peft import LoraConfig
from peft.tuners.lora import Linear
from torch import nn

from ptl_prefix.artifacts.bundle import Bundle
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.linear_sites import LinearNames, LinearSite, sites_named
from ptl_prefix.methods.injected_layers import ADAPTER, InjectedLayers
from ptl_prefix.settings import settings_from


class LoRA(InjectedLayers):
    """Adds a trainable low-rank update to weight matrices.

    Args:
        name: Name of the method in run folders and records.
        default_lr: Learning rate of a run that sets none.
        match_parameters: Number of stored parameters to come closest to, by choosing the rank; `None` uses `rank`.
        rank: Rank of the update.
        alpha: Numerator of the update's scale, alpha / rank.
        dropout: Dropout probability on the input of A during training; `backbone.base_mode` is about the backbone's.
        target_modules: Names of the linear modules to adapt, each the end of one or several paths; `None` is the query
            and value projections, as in the paper.
        use_dora: Whether the magnitudes of the rows are trained too (DoRA).
        use_rslora: Whether the scale is alpha / sqrt(rank) instead (rsLoRA).
    """

    kind = "lora"

    @settings_from("method/lora")
    def __init__(
        self,
        *,
        name: str,
        default_lr: Annotated[float, Gt(0)],
        match_parameters: Annotated[int, Ge(1)] | None,
        rank: Annotated[int, Ge(1)],
        alpha: Annotated[float, Gt(0)],
        dropout: Annotated[float, Ge(0), Lt(1)],
        target_modules: Sequence[str] | None,
        use_dora: bool,
        use_rslora: bool,
    ) -> None:
        super().__init__(
            name=name, default_lr=default_lr, target_modules=target_modules, match_parameters=match_parameters
        )
        self.rank = rank
        self.alpha = alpha
        self.dropout = dropout
        self.use_dora = use_dora
        self.use_rslora = use_rslora

    @property
    def size_setting(self) -> str:
        """The rank."""
        return "rank"

    def direct_weight_access(self, backbone: Backbone) -> str | None:
        """DoRA initialises the magnitudes with the norms of the rows."""
        return "reads the norms of the weights' rows" if self.use_dora else None

    def incompatibilities(self, backbone: Backbone) -> list[str]:
        """Unknown modules, quantised weights with DoRA, and a rank above the width of a matrix."""
        problems = super().incompatibilities(backbone)
        if use := self.direct_weight_access(backbone):
            problems += self.quantization_incompatibilities(backbone, use=use)
        sites = [] if problems else sites_named(backbone, self.names_in(backbone))
        narrowest = min(sites, key=_narrow_width, default=None)
        if narrowest is not None and self.rank > _narrow_width(narrowest):
            problems.append(
                f"`method.rank` must be at most the width of every matrix, but is {self.rank}, and "
                f"'{narrowest.path}' of {backbone.name} is {narrowest.width_in} x {narrowest.width_out}."
            )
        return problems

    @classmethod
    def restore(cls, bundle: Bundle, backbone: Backbone) -> Self:
        """Build the method of a bundle, and attach it to `backbone`."""
        return cls(name=bundle.manifest.method, dropout=0.0, **bundle.manifest.settings)._loaded(bundle, backbone)

    def _default_names(self, names: LinearNames) -> list[str]:
        return [names.query, names.value]

    def _wrap(self, backbone: Backbone, sites: Sequence[LinearSite]) -> Mapping[str, Linear]:
        return {site.path: self._layer_around(site) for site in sites}

    def _layer_around(self, site: LinearSite) -> Linear:
        alpha: Any = self.alpha  # annotated as an integer there, but only divided
        config = LoraConfig(
            r=self.rank,
            lora_alpha=alpha,
            lora_dropout=self.dropout,
            use_dora=self.use_dora,
            use_rslora=self.use_rslora,
            fan_in_fan_out=site.is_transposed,
        )
        layer = Linear(site.module, ADAPTER, config, r=self.rank, lora_alpha=alpha)
        if self.use_dora:
            # PEFT computes the norms in the backbone's dtype; in bfloat16 they would be off by about one percent.
            lora_a, lora_b = layer.lora_A[ADAPTER].weight.float(), layer.lora_B[ADAPTER].weight.float()
            magnitude: Any = layer.lora_magnitude_vector[ADAPTER]
            magnitude.update_layer(base_layer=site.module, lora_A=lora_a, lora_B=lora_b, scaling=layer.scaling[ADAPTER])
        return layer

    def _trainable_in(self, layer: Any) -> Mapping[str, nn.Parameter]:
        trained = {"lora_a": layer.lora_A[ADAPTER].weight, "lora_b": layer.lora_B[ADAPTER].weight}
        if self.use_dora:
            trained["magnitude"] = layer.lora_magnitude_vector[ADAPTER].weight
        return trained

    def _settings(self) -> dict[str, Any]:
        return {"rank": self.rank, "alpha": self.alpha, "use_dora": self.use_dora, "use_rslora": self.use_rslora}


def _narrow_width(site: LinearSite) -> int:
    return min(site.width_in, site.width_out)
