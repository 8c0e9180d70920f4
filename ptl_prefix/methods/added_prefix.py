"""The base of methods whose prefix is outside the softmax over the text.

In: a backbone, once; a batch, per forward pass. Out: slots filled with additions to the output of attention, which
`backbones/attention_additions.py` computes; text positions that start at 0.

The text's positions are not shifted, in any backbone: the prefix is no column of the text's softmax, so no text stands
after it, and a query sees the same columns at the same positions as in the bare backbone. With an addition of zero,
where training starts, the logits therefore are those of the bare backbone.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch

from ptl_prefix.backbones.attention_additions import AttentionAddition
from ptl_prefix.backbones.attention_sites import lowest_layer, select_layers
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.backbones.prefix_states import PrefixStates
from ptl_prefix.methods import prefix_checks
from ptl_prefix.methods.method import Method, Resource


class AddedPrefix(Method):
    """Adds something to the output of attention modules.

    Args:
        name: Name of the method in run folders and records.
        default_lr: Learning rate of a run that sets none.
        layers: Indices of the layers that get a prefix; `None` is every layer.
        sites: Names of the attention sites that get a prefix; `None` is every site of the backbone.
        match_parameters: Number of stored parameters to come closest to, by choosing the size; `None` uses the
            configured size.
    """

    def __init__(
        self,
        *,
        name: str,
        default_lr: float,
        layers: Sequence[int] | None,
        sites: Sequence[str] | None,
        match_parameters: int | None = None,
    ) -> None:
        super().__init__(name=name, default_lr=default_lr, match_parameters=match_parameters)
        self.layers = layers
        self.sites = sites
        self._is_neutral = False

    @abstractmethod
    def _additions(self, site: str) -> Sequence[AttentionAddition]:
        """The additions of a site's selected layers, float32; gradients reach the trainable parameters."""

    @abstractmethod
    def _create(self, backbone: Backbone) -> None:
        """Create the parameters on the backbone's device, if there are none."""

    def exclusive_resources(self, backbone: Backbone) -> frozenset[Resource]:
        """The attention slots."""
        return frozenset({"attention slots"})

    def incompatibilities(self, backbone: Backbone) -> list[str]:
        """Sites and layers that this backbone does not have."""
        return [
            *prefix_checks.site_problems(self.sites, backbone),
            *prefix_checks.layer_problems(self.layers, backbone),
        ]

    def first_layer(self, backbone: Backbone) -> int:
        """The lowest layer with a prefix."""
        return lowest_layer(backbone.geometry, self._selected_layers(backbone))

    def condition(self, inputs: ModelInputs) -> ModelInputs:
        """Fill the slots; the text's positions start at 0."""
        backbone = self.backbone
        backbone.slots.fill(self.states().to(device=backbone.device, dtype=backbone.dtype))
        return inputs.with_positions()

    def states(self) -> PrefixStates:
        """The current additions, for all rows of a batch."""
        geometry = self.backbone.geometry
        additions = {}
        for site, indices in self._selected_layers(self.backbone).items():
            by_layer = dict(zip(indices, self._additions(site), strict=True))
            additions[site] = tuple(by_layer.get(index) for index in range(geometry[site].num_layers))
        no_columns = {site: (None,) * shape.num_layers for site, shape in geometry.items()}
        return PrefixStates(no_columns, torch.tensor([0]), {} if self._is_neutral else additions)

    def neutralize(self) -> None:
        """Add nothing."""
        self._is_neutral = True

    def _attach(self, backbone: Backbone) -> None:
        self._create(backbone)
        backbone.slots.acquire()

    def _detach(self) -> None:
        self.backbone.slots.release()

    def _selected_layers(self, backbone: Backbone) -> dict[str, list[int]]:
        return select_layers(backbone.geometry, sites=self.sites, layers=self.layers)

    @property
    def num_stored(self) -> int:
        """The number of trainable parameters."""
        return self.num_trainable

    def _place_settings(self) -> dict[str, Any]:
        """The settings that say where the prefix is, as bundles store them."""
        return {
            "layers": None if self.layers is None else list(self.layers),
            "sites": sorted(self._selected_layers(self.backbone)),
        }
