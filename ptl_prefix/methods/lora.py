"""LoRA (Hu et al., 2022), and its relatives DoRA and rsLoRA: a low-rank change of some of the backbone's matrices.

In: a backbone, once. Out: W x + scale * B A x where there was W x, by PEFT's layers. A begins random and B at zero, so
that training begins at the bare backbone. DoRA (Liu et al., 2024) also trains the length of every output's row of
weights; rsLoRA (Kalajdzievski, 2023) divides alpha by the root of the rank, not by the rank.

Difference from the paper: where a family makes queries, keys and values by one matrix (GPT-2, GPT-NeoX), that matrix is
adapted as one, as PEFT does, where Hu et al. left GPT-2's keys alone.
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
    """Adds a trained matrix of low rank to each chosen one.

    Args:
        name: What runs and records call it.
        default_lr: The learning rate where a run chooses none.
        match_parameters: Numbers to store, for which the rank is chosen; `None`: `rank` says.
        rank: Rank of the change.
        alpha: The change is multiplied by alpha / rank.
        dropout: Dropout on what A reads, while training; the backbone's own is another setting.
        target_modules: Names of the linear modules, each the end of one path or of several; `None` is queries and
            values, as in the paper.
        use_dora: Whether the lengths of the rows are trained too.
        use_rslora: Whether the change is multiplied by alpha / sqrt(rank) instead.
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
        """DoRA begins with their rows' lengths."""
        return "measures the rows of the weights" if self.use_dora else None

    def problems(self, backbone: Backbone) -> list[str]:
        """Unknown modules, and a rank that is none in some of them."""
        misfits = super().problems(backbone)
        if does := self.direct_weight_access(backbone):
            misfits += self.quantization_problems(backbone, does=does)
        sites = [] if misfits else sites_named(backbone, self.names_in(backbone))
        narrowest = min(sites, key=_narrow_width, default=None)
        if narrowest is not None and self.rank > _narrow_width(narrowest):
            misfits.append(
                f"`method.rank` must be at most the width of every matrix, but is {self.rank}, and "
                f"'{narrowest.path}' of {backbone.name} is {narrowest.width_in} x {narrowest.width_out}."
            )
        return misfits

    @classmethod
    def restore(cls, bundle: Bundle, backbone: Backbone) -> Self:
        """The change that a bundle holds."""
        return cls(name=bundle.manifest.method, dropout=0.0, **bundle.manifest.settings)._loaded(bundle, backbone)

    def _default_names(self, names: LinearNames) -> list[str]:
        return [names.query, names.value]

    def _wrap(self, site: LinearSite) -> Linear:
        alpha: Any = self.alpha  # said to be an integer there, and only divided
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
            # PEFT has measured the rows in the backbone's dtype; in bfloat16 they would be off by parts of a hundred.
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
