"""Prefix-tuning (Li & Liang, 2021): trained keys and values that every attention layer attends to before the text.

In: a backbone, once; a batch, per forward. Out: filled slots and the text's positions. What is exported is one table
of keys and one of values a site, however they were produced.

Differences from the authors' code (github.com/XiangLisaLi/PrefixTuning): the MLP runs once per step rather than once
per row of a batch; keys and values enter in the attention function rather than through `past_key_values`; the starting
scale can be matched to the backbone; in rotary models keys are trained as attention sees them, after the rotation.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

from ptl_prefix.artifacts.bundle import Bundle
from ptl_prefix.backbones.attention_sites import SiteGeometry
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.backbones.observation import observed_stds, observed_text
from ptl_prefix.backbones.prefix_states import LayerStates, PrefixStates, layers_of_table
from ptl_prefix.errors import BundleError
from ptl_prefix.methods.method import Method, Resource
from ptl_prefix.methods.prefix_start import bundle_problems, bundle_tables, format_shortfall, start_token_id, word_ids
from ptl_prefix.methods.prefix_table import EmbeddingTable, KeyValueTable, PrefixTable, make_table
from ptl_prefix.settings import settings_from

Length = Annotated[int, Ge(1)]


class PrefixTuning(Method):
    """Gives every attention layer `prefix_length` extra positions to attend to.

    Args:
        name: What runs and records call it.
        default_lr: The learning rate where a run chooses none.
        match_parameters: Numbers to store, for which the length is chosen; `None`: `prefix_length` says.
        prefix_length: Extra positions per attention layer.
        reparam: How keys and values are produced while training: `none`, `mlp`, `linear`, or `embedding` (the paper's
            embedding-only ablation, in decoder-only backbones); all fold into a plain table.
        reparam_hidden_size: Width of the MLP.
        reparam_embedding_size: Width of the MLP's input rows, or of P' in `linear`; `None` is the backbone's width.
        init: `random` draws keys and values from a normal distribution that spreads as the backbone's own do, layer by
            layer (a plain table nowhere narrower than N(0, 1)); `zero_values` draws such keys and starts with values of
            zero, close to the bare backbone; `text` takes the keys and values of real words; `bundle` those of an
            exported prefix.
        init_text: The words of `text`; repeated where they are fewer than the prefix's positions.
        init_bundle: The folder of `bundle`, of the same geometry; cut or repeated to the length.
        frozen_sink: Whether the first position is kept at what the backbone makes of its first token, and not trained.
        prefix_dropout: Dropout on keys and values while training.
        layers: Indices of the layers that receive a prefix; `None` is every layer.
        sites: Attention sites that receive one; `None` is every site the backbone has.
        position_law: `shifted`: text positions start after the prefix, as in the paper's GPT-2; `unshifted`: they
            start at 0, as in its BART; `infix`: the prefix stands between prompt and target, seen by the last token of
            the prompt (it says the first of the target) and by the target, which alone are shifted. `None`: shifted in
            decoder-only backbones, unshifted in others.
    """

    kind = "prefix_tuning"

    @settings_from("method/prefix_tuning")
    def __init__(
        self,
        *,
        name: str,
        default_lr: Annotated[float, Gt(0)],
        match_parameters: Length | None,
        prefix_length: Length,
        reparam: Literal["none", "mlp", "linear", "embedding"],
        reparam_hidden_size: Length,
        reparam_embedding_size: Length | None,
        init: Literal["random", "zero_values", "text", "bundle"],
        init_text: str | None,
        init_bundle: str | None,
        frozen_sink: bool,
        prefix_dropout: Annotated[float, Ge(0), Lt(1)],
        layers: Sequence[int] | None,
        sites: Sequence[str] | None,
        position_law: Literal["shifted", "unshifted", "infix"] | None,
    ) -> None:
        super().__init__(name=name, default_lr=default_lr, match_parameters=match_parameters)
        self.prefix_length = prefix_length
        self.reparam = reparam
        self.reparam_hidden_size = reparam_hidden_size
        self.reparam_embedding_size = reparam_embedding_size
        self.init = init
        self.init_text = init_text
        self.init_bundle = init_bundle
        self.frozen_sink = frozen_sink
        self.prefix_dropout = prefix_dropout
        self.layers = layers
        self.sites = sites
        self._position_law = position_law
        self.tables = nn.ModuleDict()
        self._sinks: dict[str, KeyValueTable] = {}
        self._visible = True

    @property
    def size_setting(self) -> str:
        """Its length."""
        return "prefix_length"

    @property
    def smallest_size(self) -> int:
        """One position that is trained."""
        return 1 + int(self.frozen_sink)

    def exclusive_resources(self, backbone: Backbone) -> frozenset[Resource]:
        """The slots."""
        return frozenset({"attention slots"})

    def direct_weight_access(self, backbone: Backbone) -> str | None:
        """Of embeddings it takes the keys and values inside the layers, by calling a part of the model."""
        return "takes keys and values out of the layers" if self.reparam == "embedding" else None

    def problems(self, backbone: Backbone) -> list[str]:
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
        if limit is not None and self.reserved_positions(backbone) >= limit:
            misfits.append(
                f"`method.prefix_length` must leave room for text in the {limit} positions of {backbone.name}, "
                f"but is {self.prefix_length}."
            )
        return misfits + self._law_misfits(backbone) + self._start_misfits(backbone, can_compare=not misfits)

    def _law_misfits(self, backbone: Backbone) -> list[str]:
        """What only a causal backbone can do."""
        misfits = []
        if backbone.is_encoder_decoder and self._position_law in ("shifted", "infix"):
            misfits.append(
                f"`method.position_law` must be unshifted in encoder-decoders, which count their own positions, but is "
                f"{self._position_law} and {backbone.name} is one."
            )
        if self.reparam == "embedding" and backbone.is_encoder_decoder:
            misfits.append(
                f"`method.reparam=embedding` needs a causal backbone, but {backbone.name} has an encoder, where a "
                "prefix would see the text; choose none, mlp or linear."
            )
        return misfits

    def _start_misfits(self, backbone: Backbone, *, can_compare: bool) -> list[str]:
        misfits = []
        if self.frozen_sink and self.prefix_length < 2:
            misfits.append("`method.prefix_length` must be > 1 with a frozen sink, or nothing is trained, but is 1.")
        if self.reparam == "embedding" and self.init in ("zero_values", "bundle"):
            misfits.append(f"`method.init` must be random or text with embeddings, but is {self.init}.")
        for key, value, init in (
            ("init_text", self.init_text, "text"),
            ("init_bundle", self.init_bundle, "bundle"),
        ):
            if (value is not None) != (self.init == init):
                misfits.append(
                    f"`method.{key}` must be given with `method.init={init}` and only then, but init is {self.init} "
                    f"and {key} is {value!r}."
                )
        if self.init == "bundle" and self.init_bundle is not None and can_compare:
            try:
                misfits += bundle_problems(
                    self.init_bundle, backbone.geometry, list(self._chosen_layers(backbone)), self.layers
                )
            except BundleError as error:
                misfits.append(f"`method.init_bundle`: {error}")
        return misfits

    def _attach(self, backbone: Backbone) -> None:
        if not self.tables:
            with torch.device(backbone.device):
                self.tables = self._new_tables(backbone, self.reparam)
            if not backbone.is_shape_only:
                self._start(backbone)
        for table in self._tables().values():
            if isinstance(table, EmbeddingTable):
                table.backbone = backbone
        backbone.slots.acquire()

    def _detach(self) -> None:
        self.backbone.slots.release()

    def condition(self, inputs: ModelInputs) -> ModelInputs:
        """Fill the slots, and start the text where the position law has it."""
        states = self.states().to(device=self.backbone.device, dtype=self.backbone.dtype)
        if self.position_law == "infix":
            states = states.seen_from(inputs.first_written)
        self.backbone.slots.fill(states)
        return inputs.with_positions(states.text_offset(inputs.input_ids.shape[1]))

    def states(self) -> PrefixStates:
        """The prefix as it is now, one row for all, in float32; gradients reach the trained parameters."""
        sites = {}
        for site, geometry in self.backbone.geometry.items():
            layers: list[LayerStates | None] = [None] * geometry.num_layers
            if site in self.tables:
                present = self._layer_states(self._table(site))
                for index, layer in zip(self._layer_indices(geometry), present, strict=True):
                    layers[index] = layer
            sites[site] = tuple(layers)
        states = PrefixStates(sites, torch.tensor([self.position_offset]))
        return states if self._visible else states.invisible()

    def _table(self, site: str) -> KeyValueTable:
        """A site's keys and values at every position, the frozen one included."""
        table: KeyValueTable = self.tables[site]()
        if site not in self._sinks:
            return table
        return torch.cat([self._sinks[site].to(table), table], dim=3)

    def _layer_states(self, table: KeyValueTable) -> list[LayerStates]:
        return layers_of_table(nn.functional.dropout(table, self.prefix_dropout, self.training))

    def neutralize(self) -> None:
        """Hide the prefix from every query; the text stays where the position law has it."""
        self._visible = False

    def reserved_positions(self, backbone: Backbone) -> int:
        """The prefix length where text, or the target, starts after the prefix; else none."""
        law = self._position_law or ("unshifted" if backbone.is_encoder_decoder else "shifted")
        return 0 if law == "unshifted" else self.prefix_length

    @property
    def position_law(self) -> str:
        """As configured, or what the backbone's kind decides."""
        return self._position_law or super().position_law

    @property
    def num_stored(self) -> int:
        """Numbers in the exported tables: 2 x layers x prefix_length x kv_width, over the sites."""
        geometries = [table.geometry for table in self._tables().values()]
        return sum(2 * site.num_layers * self.prefix_length * site.kv_width for site in geometries)

    @torch.no_grad()
    def export(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The folded tables, float32: `<site>.keys` and `<site>.values`, each (layers, kv_heads, prefix, head_dim)."""
        tensors = {}
        for site in self._tables():
            keys, values = self._table(site).detach().cpu().unbind(1)
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
        """One table for each chosen site, of the layers that receive a prefix and of the positions that are trained."""
        return nn.ModuleDict(
            {
                site: make_table(
                    reparam,
                    dataclasses.replace(backbone.geometry[site], num_layers=len(layers)),
                    backbone,
                    prefix_length=self._num_trained_positions,
                    embedding_size=self.reparam_embedding_size,
                    hidden_size=self.reparam_hidden_size,
                )
                for site, layers in self._chosen_layers(backbone).items()
            }
        )

    @property
    def _num_trained_positions(self) -> int:
        return self.prefix_length - int(self.frozen_sink)

    def _chosen_layers(self, backbone: Backbone) -> dict[str, list[int]]:
        """The layers that receive a prefix, by site; a site without any is left out."""
        chosen = {
            site: list(self._layer_indices(geometry))
            for site, geometry in backbone.geometry.items()
            if self.sites is None or site in self.sites
        }
        return {site: layers for site, layers in chosen.items() if layers}

    def _layer_indices(self, geometry: SiteGeometry) -> Sequence[int]:
        every = range(geometry.num_layers)
        return every if self.layers is None else [layer for layer in every if layer in self.layers]

    def _start(self, backbone: Backbone) -> None:
        """Give the tables, as they were drawn, the starting point that `init` names; freeze the sink."""
        chosen = self._chosen_layers(backbone)
        if self.frozen_sink:
            sinks = observed_text(backbone, [start_token_id(backbone)])
            self._sinks = {site: sinks[site][layers] for site, layers in chosen.items()}
        if self.init in ("random", "zero_values"):
            for site, spread in observed_stds(backbone).items():
                if site in chosen:
                    spread = spread[chosen[site]]
                    spread[:, 1] *= self.init == "random"
                    self._tables()[site].match(spread)
        elif self.init == "text":
            self._start_from_words(backbone, chosen)
        else:
            assert self.init_bundle is not None
            targets, said = bundle_tables(self.init_bundle, self.prefix_length)
            self.notes.append(said + self._fit(targets))

    def _start_from_words(self, backbone: Backbone, chosen: Mapping[str, Sequence[int]]) -> None:
        assert self.init_text is not None
        sink = [start_token_id(backbone)] if self.frozen_sink else []
        ids = word_ids(backbone, self.init_text, self._num_trained_positions)
        said = f"starts from the words {backbone.tokenizer.decode(ids)!r}"
        if self.reparam == "embedding":
            (table,) = self.tables.values()
            assert isinstance(table, EmbeddingTable)
            table.start_from(ids)
            self.notes.append(said)
        else:
            tables = observed_text(backbone, [*sink, *ids])
            self.notes.append(said + self._fit({site: tables[site][list(layers)] for site, layers in chosen.items()}))

    def _fit(self, targets: Mapping[str, KeyValueTable]) -> str:
        """Let every table begin at its target, of the whole prefix's length."""
        skipped = int(self.frozen_sink)
        device = next(self.parameters()).device
        missing = {
            site: self._tables()[site].fit(target[:, :, :, skipped:].to(device)) for site, target in targets.items()
        }
        return format_shortfall(missing)
