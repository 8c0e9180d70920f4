"""Prefix-Tuning+ (Wang et al., 2025, arXiv 2506.13674): a prefix outside the softmax, as a trained map of the query.

In: a backbone, once; a batch, per forward pass. Out: in every head of every selected layer

    softmax(Q K^T) V + phi(Q) M

in place of the first term. M is a trained matrix, and phi a fixed function of each channel. M stands for the sum of
phi(key) value^T over the positions of a prefix, to which the second term would attend linearly. It does not fade as the
text gets longer, as a prefix inside the softmax does. M starts at 0, so that training starts from exactly the bare
backbone.

A later version of the paper (ICLR 2026) calls the method PrefixMemory-Tuning, and has `gelu` beside `elu`.

Decisions that are ours: the query is the one that attention uses, after the rotary embedding and before the scale; with
grouped-query attention there is one matrix for each head of keys and values, as there would be one prefix; the matrix
starts at 0.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Self

import torch
from annotated_types import Gt
from torch import Tensor, nn

from ptl_prefix.artifacts.bundle import Bundle
from ptl_prefix.backbones.attention_additions import FeatureMap, QueryMap
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.methods.added_prefix import AddedPrefix
from ptl_prefix.settings import settings_from


class PrefixPlus(AddedPrefix):
    """Adds a trained map of the query to the output of attention.

    Args:
        name: Name of the method in run folders and records.
        default_lr: Learning rate of a run that sets none.
        feature_map: phi, the function of each channel of the query.
        layers: Indices of the layers that get a matrix; `None` is every layer.
        sites: Names of the attention sites that get a matrix; `None` is every site of the backbone.
    """

    kind = "prefix_plus"

    @settings_from("method/prefix_plus")
    def __init__(
        self,
        *,
        name: str,
        default_lr: Annotated[float, Gt(0)],
        feature_map: FeatureMap,
        layers: Sequence[int] | None,
        sites: Sequence[str] | None,
    ) -> None:
        super().__init__(name=name, default_lr=default_lr, layers=layers, sites=sites)
        self.feature_map = feature_map
        self.matrices = nn.ParameterDict()

    def _additions(self, site: str) -> list[QueryMap]:
        return [QueryMap(matrix, self.feature_map) for matrix in self.matrices[site]]

    def _create(self, backbone: Backbone) -> None:
        for site, layers in self._selected_layers(backbone).items():
            if site not in self.matrices:
                shape = backbone.geometry[site]
                size = (len(layers), shape.num_kv_heads, shape.head_dim, shape.head_dim)
                self.matrices[site] = nn.Parameter(torch.zeros(size, device=backbone.device))

    def export(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The matrices, float32: `<site>.matrices`, each (layers, kv_heads, head_dim, head_dim)."""
        tensors = {f"{site}.matrices": matrices.detach().cpu().clone() for site, matrices in self.matrices.items()}
        return {"feature_map": self.feature_map, **self._place_settings()}, tensors

    @classmethod
    def restore(cls, bundle: Bundle, backbone: Backbone) -> Self:
        """Build the method of a bundle, and attach it to `backbone`."""
        method = cls(name=bundle.manifest.method, **bundle.manifest.settings)
        method._create(backbone)
        method.load_state_dict({f"matrices.{site}": bundle.tensors[f"{site}.matrices"] for site in method.matrices})
        return method.attach(backbone).eval()
