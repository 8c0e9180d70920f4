"""Prefix-tuning (Li & Liang, 2021): trained keys and values that every attention layer attends to before the text.

In: a backbone, once; a batch, per forward. Out: filled slots and the text's positions. What is exported is one table
of keys and one of values a site, however they were produced.

Differences from the authors' code (github.com/XiangLisaLi/PrefixTuning): the MLP runs once per step rather than once
per row of a batch; keys and values enter in the attention function rather than through `past_key_values`; the starting
scale can be matched to the backbone; in rotary models keys are trained as attention sees them, after the rotation.
"""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn

from ptl_prefix.artifacts.bundle import Bundle
from ptl_prefix.backbones.attention_sites import SiteGeometry
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.backbones.observation import observed_scales
from ptl_prefix.backbones.prefix_states import LayerStates, PrefixStates
from ptl_prefix.methods.method import Method
from ptl_prefix.methods.prefix_table import KeyValueTable, PrefixTable, make_table
from ptl_prefix.settings import settings_from

Length = Annotated[int, Ge(1)]


class PrefixTuning(Method):
    """Gives every attention layer `prefix_length` extra positions to attend to.

    Args: name: What runs and records call it. prefix_length: Extra positions per attention layer. reparam: How keys
        and values are produced while training: `none`, `mlp` or `linear`; all fold into a plain table.
        reparam_hidden_size: Width of the MLP. reparam_embedding_size: Width of the MLP's input rows, or of P' in
        `linear`; `None` is the backbone's width. init: `random` draws keys and values from a normal distribution as
        large as the backbone's own, layer by layer; `zero_values`
            draws such keys and starts with values of zero, close to the bare backbone.
        prefix_dropout: Dropout on keys and values while training.
        layers: Indices of the layers that receive a prefix; `None` is every layer.
        sites: Attention sites that receive one; `None` is every site the backbone has.
        position_law: `shifted`: text positions start after the prefix, as in the paper's GPT-2; `unshifted`: they
            start at 0, as in its BART. `None`: shifted in decoder-only backbones.
    """

    kind = "prefix_tuning"

    @settings_from("method/prefix_tuning")
    def __init__(
        self,
        *,
        name: str,
        prefix_length: Length,
        reparam: Literal["none", "mlp", "linear"],
        reparam_hidden_size: Length,
        reparam_embedding_size: Length | None,
        init: Literal["random", "zero_values"],
        prefix_dropout: Annotated[float, Ge(0), Lt(1)],
        layers: Sequence[int] | None,
        sites: Sequence[str] | None,
        position_law: Literal["shifted", "unshifted"] | None,
    ) -> None:
        super().__init__(name=name)
        self.prefix_length = prefix_length
        self.reparam = reparam
        self.reparam_hidden_size = reparam_hidden_size
        self.reparam_embedding_size = reparam_embedding_size
        self.init = init
        self.prefix_dropout = prefix_dropout
        self.layers = layers
        self.sites = sites
        self._position_law = position_law
        self.tables = nn.ModuleDict()
        self._visible = True

    def misfits(self, backbone: Backbone) -> list[str]:
        """Sites, layers and lengths that this backbone has not got."""
        misfits = []
        known = ", ".join(f"'{site}'" for site in backbone.geometry)
        for site in self.sites or ():
            if site not in backbone.geometry:
                misfits.append(
                    f"`method.sites` must be attention sites of the backbone, but '{site}' is not one of "
                    f"{backbone.name}'s ({known})."
                )
        depth = max(geometry.num_layers for geometry in backbone.geometry.values())
        if self.layers is not None and (not self.layers or len(set(self.layers)) < len(self.layers)):
            misfits.append(f"`method.layers` must name at least one layer, and each once, but is {list(self.layers)}.")
        for layer in self.layers or ():
            if not 0 <= layer < depth:
                misfits.append(f"`method.layers` must be from 0 to {depth - 1} in {backbone.name}, but {layer} is not.")
        limit = backbone.max_positions
        if limit is not None and self.prefix_length >= limit:
            misfits.append(
                f"`method.prefix_length` must leave room for text in the {limit} positions of {backbone.name}, "
                f"but is {self.prefix_length}."
            )
        return misfits

    def _attach(self, backbone: Backbone) -> None:
        if not self.tables:
            with torch.device(backbone.device):
                self.tables = self._new_tables(backbone, self.reparam)
            if not backbone.is_sketch:
                self._match_backbone(backbone)
        backbone.slots.take()

    def _detach(self) -> None:
        self.backbone.slots.release()

    def condition(self, inputs: ModelInputs) -> ModelInputs:
        """Fill the slots, and start the text where the position law has it."""
        states = self.states().to(device=self.backbone.device, dtype=self.backbone.dtype)
        self.backbone.slots.fill(states)
        return inputs.with_positions(states.position_offset)

    def states(self) -> PrefixStates:
        """The prefix as it is now, one row for all, in float32; gradients reach the trained parameters."""
        sites = {}
        for site, geometry in self.backbone.geometry.items():
            layers: list[LayerStates | None] = [None] * geometry.num_layers
            if site in self.tables:
                present = self._layer_states(self.tables[site]())
                for index, layer in zip(self._layer_indices(geometry), present, strict=True):
                    layers[index] = layer
            sites[site] = tuple(layers)
        states = PrefixStates(sites, torch.tensor([self.position_offset]))
        return states if self._visible else states.invisible()

    def _layer_states(self, table: KeyValueTable) -> list[LayerStates]:
        table = nn.functional.dropout(table, self.prefix_dropout, self.training)
        mask = torch.ones(1, self.prefix_length, dtype=torch.bool, device=table.device)
        return [LayerStates(key[None], value[None], mask) for key, value in table]

    def neutralize(self) -> None:
        """Hide the prefix from every query; the text stays where the position law has it."""
        self._visible = False

    def positions_taken(self, backbone: Backbone) -> int:
        """The prefix length where text starts after the prefix, else none."""
        law = self._position_law or ("unshifted" if backbone.is_encoder_decoder else "shifted")
        return self.prefix_length if law == "shifted" else 0

    @property
    def num_stored(self) -> int:
        """Numbers in the exported tables: 2 x layers x prefix_length x kv_width, over the sites."""
        return sum(
            2 * t.geometry.num_layers * self.prefix_length * t.geometry.kv_width for t in self._tables().values()
        )

    @torch.no_grad()
    def export(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The folded tables, float32: `<site>.keys` and `<site>.values`, each (layers, kv_heads, prefix, head_dim)."""
        tensors = {}
        for site, table in self._tables().items():
            keys, values = table().detach().cpu().unbind(1)
            tensors[f"{site}.keys"] = keys.contiguous()
            tensors[f"{site}.values"] = values.contiguous()
        settings = {
            "prefix_length": self.prefix_length,
            "layers": None if self.layers is None else list(self.layers),
            "sites": sorted(self._tables()),
            "position_law": self.position_law,
        }
        return settings, tensors

    @classmethod
    def restore(cls, bundle: Bundle, backbone: Backbone) -> Self:
        """The prefix that a bundle holds, as a plain table."""
        method = cls(
            name=bundle.manifest.method, reparam="none", init="random", prefix_dropout=0.0, **bundle.manifest.settings
        )
        method.tables = method._new_tables(backbone, "none")
        for site, table in method._tables().items():
            pair = torch.stack([bundle.tensors[f"{site}.keys"], bundle.tensors[f"{site}.values"]], dim=1)
            table.load_state_dict({"table": pair.float()})
        method.to(backbone.device)
        return method.attach(backbone).eval()

    def _tables(self) -> dict[str, PrefixTable]:
        tables: dict[str, PrefixTable] = dict(self.tables.items())  # type: ignore[arg-type]
        return tables

    def _new_tables(self, backbone: Backbone, reparam: str) -> nn.ModuleDict:
        """One table for each chosen site, of the layers that receive a prefix."""
        tables = {}
        for site, geometry in backbone.geometry.items():
            if self.sites is None or site in self.sites:
                tables[site] = make_table(
                    reparam,
                    dataclasses.replace(geometry, num_layers=len(self._layer_indices(geometry))),
                    prefix_length=self.prefix_length,
                    embedding_size=self.reparam_embedding_size or backbone.hidden_size,
                    hidden_size=self.reparam_hidden_size,
                )
        return nn.ModuleDict(tables)

    def _layer_indices(self, geometry: SiteGeometry) -> Sequence[int]:
        every = range(geometry.num_layers)
        return every if self.layers is None else [layer for layer in every if layer in self.layers]

    def _match_backbone(self, backbone: Backbone) -> None:
        """Start where the backbone's own keys and values are, or, with `zero_values`, where a prefix says nothing."""
        for site, scale in observed_scales(backbone).items():
            if site in self.tables:
                scale = scale[list(self._layer_indices(backbone.geometry[site]))]
                if self.init == "zero_values":
                    scale[:, 1] = 0.0
                self._tables()[site].match(scale)
