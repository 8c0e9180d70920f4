"""Prefix-tuning (Li & Liang, 2021): trainable keys and values that every attention layer attends to before the text.

In: a backbone, once; a batch, per forward pass. Out: filled slots, and the text's positions. A bundle holds one table
of keys and one of values per attention site, for every reparametrisation.

Differences from the authors' code (github.com/XiangLisaLi/PrefixTuning): the MLP runs once per step instead of once per
row of a batch; keys and values enter in the attention function instead of through `past_key_values`; the initial scale
can be matched to the backbone; in rotary models the trained keys are those after the rotation.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor, nn

from ptl_prefix.artifacts.bundle import Bundle
from ptl_prefix.backbones.attention_sites import lowest_layer, select_layers
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.backbones.prefix_states import LayerStates, PrefixStates, layers_of_table
from ptl_prefix.methods import prefix_checks
from ptl_prefix.methods.default_start import GivenStart, Reparam, Start
from ptl_prefix.methods.distractors import Distractors, DistractorSettings, distractor_problems
from ptl_prefix.methods.method import Method, Resource
from ptl_prefix.methods.new_tables import new_tables
from ptl_prefix.methods.prefix_joining import SitePrefix
from ptl_prefix.methods.prefix_start import Init, PrefixStart, sink_tables
from ptl_prefix.methods.prefix_table import EmbeddingTable, KeyValueTable, PrefixTable
from ptl_prefix.methods.start_inputs import StartInputs
from ptl_prefix.settings import settings_from

Length = Annotated[int, Ge(1)]


class PrefixTuning(Method):
    """Gives every attention layer `prefix_length` extra positions to attend to.

    Args:
        name: Name of the method in run folders and records.
        default_lr: Learning rate of a run that sets none; `None` is 0.03 for a plain table and 0.001 for the others.
        match_parameters: Number of stored parameters to come closest to, by choosing the length; `None` uses
            `prefix_length`.
        prefix_length: Number of extra positions (virtual tokens) per attention layer.
        reparam: How keys and values are computed during training: `none`, `mlp`, `linear`, or `embedding` (the paper's
            embedding-only ablation, for decoder-only backbones); see `prefix_table.py`. `None` is `mlp` where keys and
            values are drawn at random, else `none`.
        reparam_hidden_size: Width of the MLP's hidden layer.
        reparam_embedding_size: Width of the MLP's input, or of P' in `linear`; `None` is the backbone's width.
        init: Initial keys and values. `random`: normal, with the standard deviations of the backbone's own in each
            layer (a plain table: of at least 1). `zero_values`: such keys, and values of zero, close to the bare
            backbone. `text`: those of words. `training_inputs`: of the first training prompts. `demonstrations`: of
            the first training prompts with their targets. `sampled_chunks`: of random chunks of training rows, or of
            the document if the task has one. `attention_matching`: demonstrations, or the document, compressed.
            `bundle`: those of an exported prefix. `None` is `attention_matching` in decoder-only backbones, if the task
            gives training rows, and `random` elsewhere.
        init_text: Words for `init=text`, repeated if they have fewer tokens than the prefix has positions; `None` is
            the task's document, or its instruction if it has no document.
        init_num_chunks: Number of chunks for `init=sampled_chunks`; `None` is 4, or the prefix's length if it is less.
        init_num_tokens: Number of tokens that `init=attention_matching` compresses; `None` is 16 times the prefix's
            length, or half of the context window if it is less.
        init_bundle: Folder of a bundle of the same geometry for `init=bundle`, truncated or repeated to the length.
        train_keys: Whether keys are trained; if not, they keep their initial values, and only values are trained.
        frozen_sink: Whether the first position is frozen, with the backbone's keys and values of its start token.
        prefix_dropout: Dropout probability on the keys and values during training.
        distractors: Bundles of other prefixes that stand before or after this one in some forward passes of training,
            so that it still works when it is joined with others; empty for none.
        max_distractors: Most of them in one forward pass; their number, choice and order are drawn.
        p_isolated: Probability that a forward pass of training has none of them.
        layers: Indices of the layers that get a prefix; `None` is every layer.
        sites: Names of the attention sites that get a prefix; `None` is every site of the backbone.
        position_law: Where text positions start. `shifted`: after the prefix, as in the paper's GPT-2. `unshifted`: at
            0, as in the paper's BART. `infix`: the prefix is between prompt and target; only the target is shifted,
            and only it and the last token of the prompt, which predicts its first token, see the prefix. `None`:
            `shifted` in decoder-only backbones, `unshifted` in encoder-decoders.
    """

    kind = "prefix_tuning"
    mixes_rows = True

    @settings_from("method/prefix_tuning")
    def __init__(
        self,
        *,
        name: str,
        default_lr: Annotated[float, Gt(0)] | None,
        match_parameters: Length | None,
        prefix_length: Length,
        reparam: Reparam | None,
        reparam_hidden_size: Length,
        reparam_embedding_size: Length | None,
        init: Init | None,
        init_text: str | None,
        init_num_chunks: Length | None,
        init_num_tokens: Length | None,
        init_bundle: str | None,
        train_keys: bool,
        frozen_sink: bool,
        prefix_dropout: Annotated[float, Ge(0), Lt(1)],
        distractors: Sequence[str],
        max_distractors: Length,
        p_isolated: Annotated[float, Ge(0), Le(1)],
        layers: Sequence[int] | None,
        sites: Sequence[str] | None,
        position_law: Literal["shifted", "unshifted", "infix"] | None,
    ) -> None:
        self._given_start = GivenStart(init, reparam, default_lr)
        self._start_is_chosen = self._given_start.is_whole
        start = self._given_start.complete(can_match_attention=False)
        super().__init__(name=name, default_lr=start.default_lr, match_parameters=match_parameters)
        self._use(start)
        self.prefix_length = prefix_length
        self.reparam_hidden_size = reparam_hidden_size
        self.reparam_embedding_size = reparam_embedding_size
        self.init_text = init_text
        self.init_num_chunks = init_num_chunks
        self.init_num_tokens = init_num_tokens
        self.init_bundle = init_bundle
        self.train_keys = train_keys
        self.frozen_sink = frozen_sink
        self.prefix_dropout = prefix_dropout
        self._distractor_settings = DistractorSettings(
            bundles=tuple(distractors), max_at_once=max_distractors, p_isolated=p_isolated
        )
        self._distractors: Distractors | None = None
        self.layers = layers
        self.sites = sites
        self._position_law = position_law
        self.tables = nn.ModuleDict()
        self._sinks: dict[str, KeyValueTable] = {}
        self._start_inputs = StartInputs()
        self._skips_start = False
        self._visible = True

    @property
    def trains_keys_and_values(self) -> bool:  # type: ignore[override]
        """Whether keys and values are trained as they are."""
        return self.reparam == "none"

    @property
    def has_open_settings(self) -> bool:
        """Whether the start is open, or the length."""
        return not self._start_is_chosen or super().has_open_settings

    def choose_settings(self, backbone: Backbone) -> dict[str, Any]:
        """Choose what is open of the start, and the length."""
        return self._choose_start(backbone) | super().choose_settings(backbone)

    def _choose_start(self, backbone: Backbone) -> dict[str, Any]:
        if self._start_is_chosen:
            return {}
        can_match = self._start_inputs.gives_rows and not backbone.is_encoder_decoder
        start = self._given_start.complete(can_match_attention=can_match)
        self._use(start)
        self._start_is_chosen = True
        return dict(self._given_start.chosen(start))

    def _use(self, start: Start) -> None:
        self.init, self.reparam, self.default_lr = start.init, start.reparam, start.default_lr

    def provide_start_inputs(self, inputs: StartInputs) -> None:
        """Keep the task's instruction and training rows for the initialisations that use them."""
        self._start_inputs = inputs

    def skip_start(self) -> None:
        """Leave the tables as drawn; a frozen sink is computed all the same, as no checkpoint holds it."""
        self._skips_start = True

    def condition(self, inputs: ModelInputs) -> ModelInputs:
        """Fill the slots, and set the text's positions by the position law."""
        states = self.states().to(device=self.backbone.device, dtype=self.backbone.dtype)
        if self.position_law == "infix":
            states = states.seen_from(inputs.first_written)
        self.backbone.slots.fill(states)
        return inputs.with_positions(states.text_offset(inputs.input_ids.shape[1]))

    def states(self) -> PrefixStates:
        """The current prefix, one row for the whole batch, float32; gradients reach the trainable parameters."""
        selected = self._selected_layers(self.backbone)
        tables: Mapping[str, Tensor] = {
            site: nn.functional.dropout(self._table(site), self.prefix_dropout, self.training) for site in selected
        }
        offset = self.position_offset
        if self._distractors is not None and self.training:
            prefix = self._distractors.draw(SitePrefix(tables, self.frozen_sink))
            # Positions are shifted by all that stands before the text, or by nothing.
            tables, offset = prefix.tables, prefix.length if offset else 0
        sites = {}
        for site, geometry in self.backbone.geometry.items():
            layers: list[LayerStates | None] = [None] * geometry.num_layers
            if site in selected:
                for index, layer in zip(selected[site], layers_of_table(tables[site]), strict=True):
                    layers[index] = layer
            sites[site] = tuple(layers)
        states = PrefixStates(sites, torch.tensor([offset]))
        return states if self._visible else states.invisible()

    def _table(self, site: str) -> KeyValueTable:
        """The keys and values of a site at every position, the frozen one included."""
        table: KeyValueTable = self.tables[site]()
        if site not in self._sinks:
            return table
        return torch.cat([self._sinks[site].to(table), table], dim=3)

    def neutralize(self) -> None:
        """Make the prefix invisible to every query; the text's positions do not change."""
        self._visible = False

    def reserved_positions(self, backbone: Backbone) -> int:
        """The prefix length, and that of its distractors, if text positions are shifted by them; else 0."""
        own = self._own_positions(backbone)
        return own and own + self._distractor_settings.most_positions()

    @property
    def position_offset(self) -> int:
        """The positions of the prefix alone: its distractors are there in training only."""
        return self._own_positions(self.backbone)

    def _own_positions(self, backbone: Backbone) -> int:
        return 0 if self._law_on(backbone) == "unshifted" else self.prefix_length

    def _law_on(self, backbone: Backbone) -> str:
        return self._position_law or ("unshifted" if backbone.is_encoder_decoder else "shifted")

    def first_layer(self, backbone: Backbone) -> int:
        """The lowest layer with a prefix."""
        return lowest_layer(backbone.geometry, self._selected_layers(backbone))

    @property
    def has_fixed_positions(self) -> bool:
        """Whether no distractors are drawn that shift the text."""
        return not self._distractor_settings.bundles or self._position_law == "unshifted"

    @property
    def needs_one_text_per_row(self) -> bool:
        """Whether the prefix is an infix, which begins behind the prompt of each row."""
        return self._position_law == "infix"

    @property
    def position_law(self) -> str:
        """The configured position law, or the default for the backbone."""
        return self._position_law or super().position_law

    def exclusive_resources(self, backbone: Backbone) -> frozenset[Resource]:
        """The attention slots."""
        return frozenset({"attention slots"})

    def direct_weight_access(self, backbone: Backbone) -> str | None:
        """`reparam=embedding` calls the base model, for the keys and values of the embeddings."""
        return "reads keys and values inside the layers" if self.reparam == "embedding" else None

    @property
    def size_setting(self) -> str:
        """The length of the prefix."""
        return "prefix_length"

    @property
    def smallest_size(self) -> int:
        """The length with one trainable position."""
        return 1 + int(self.frozen_sink)

    def incompatibilities(self, backbone: Backbone) -> list[str]:
        """Sites, layers, lengths and initialisations that this backbone does not support; see `prefix_checks.py`."""
        reserved = self._own_positions(backbone)
        problems = [
            *prefix_checks.site_problems(self.sites, backbone),
            *prefix_checks.layer_problems(self.layers, backbone),
            *prefix_checks.length_problems(self.prefix_length, reserved=reserved, backbone=backbone),
        ]
        has_places = not problems
        problems += prefix_checks.causality_problems(self._position_law, self.reparam, backbone)
        problems += prefix_checks.frozen_sink_problems(self.frozen_sink, self.prefix_length)
        problems += prefix_checks.train_keys_problems(self.train_keys, self.reparam)
        problems += prefix_checks.init_problems(self._start(backbone), self.reparam, backbone)
        if self.init == "bundle" and self.init_bundle is not None and has_places:
            sites = list(self._selected_layers(backbone))
            problems += prefix_checks.init_bundle_problems(self.init_bundle, backbone, sites, self.layers)
        return problems + (self._distractor_problems(backbone) if has_places else [])

    def _distractor_problems(self, backbone: Backbone) -> list[str]:
        problems = distractor_problems(
            self._distractor_settings,
            backbone,
            sites=list(self._selected_layers(backbone)),
            layers=self.layers,
            position_law=self._law_on(backbone),
        )
        return problems or prefix_checks.distractor_length_problems(
            self.prefix_length, reserved=self.reserved_positions(backbone), backbone=backbone
        )

    def _attach(self, backbone: Backbone) -> None:
        if not self.tables:
            with torch.device(backbone.device):
                self.tables = self._new_tables(backbone, self.reparam)
            if not backbone.is_shape_only:
                self._initialise(backbone)
        for table in self._tables().values():
            if isinstance(table, EmbeddingTable):
                table.backbone = backbone
        backbone.slots.acquire()

    def _detach(self) -> None:
        self.backbone.slots.release()

    def _initialise(self, backbone: Backbone) -> None:
        layers = self._selected_layers(backbone)
        if self.frozen_sink:
            self._sinks = sink_tables(backbone, layers)
        if self._distractor_settings.bundles:
            self._distractors = Distractors(
                self._distractor_settings, backbone, layers, is_shifted=self._own_positions(backbone) > 0
            )
        if not self._skips_start and (note := self._start(backbone).initialise(self._tables(), backbone, layers)):
            self.notes.append(note)

    def _start(self, backbone: Backbone) -> PrefixStart:
        return PrefixStart(
            init=self.init,
            init_text=self.init_text,
            init_num_chunks=self.init_num_chunks,
            init_num_tokens=self.init_num_tokens,
            init_bundle=self.init_bundle,
            inputs=self._start_inputs,
            prefix_length=self.prefix_length,
            num_frozen=int(self.frozen_sink),
            text_start=self._own_positions(backbone),
        )

    def _selected_layers(self, backbone: Backbone) -> dict[str, list[int]]:
        return select_layers(backbone.geometry, sites=self.sites, layers=self.layers)

    def _new_tables(self, backbone: Backbone, reparam: str) -> nn.ModuleDict:
        """One new table per selected site, for the layers that get a prefix and the positions that are trained."""
        return new_tables(
            reparam,
            backbone,
            self._selected_layers(backbone),
            prefix_length=self.prefix_length - int(self.frozen_sink),
            embedding_size=self.reparam_embedding_size,
            hidden_size=self.reparam_hidden_size,
            train_keys=self.train_keys,
        )

    def _tables(self) -> dict[str, PrefixTable]:
        tables: dict[str, PrefixTable] = dict(self.tables.items())  # type: ignore[arg-type]
        return tables

    def checkpoint_tensors(self) -> Mapping[str, Tensor]:
        """The trainable parameters, and keys that are not trained: computed again, they could differ by rounding."""
        return {**super().checkpoint_tensors(), **dict(self.named_buffers())}

    @property
    def num_stored(self) -> int:
        """Size of the exported tables: 2 x layers x prefix_length x kv_width, summed over the sites."""
        geometries = [table.geometry for table in self._tables().values()]
        return sum(2 * site.num_layers * self.prefix_length * site.kv_width for site in geometries)

    @torch.no_grad()
    def export(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The plain tables, float32: `<site>.keys` and `<site>.values`, each (layers, kv_heads, prefix, head_dim)."""
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
        """Build the prefix of a bundle, as plain tables, and attach it to `backbone`."""
        plain = {"reparam": "none", "init": "random", "train_keys": True, "prefix_dropout": 0.0, "distractors": ()}
        method = cls(name=bundle.manifest.method, **plain, **bundle.manifest.settings)
        method.tables = method._new_tables(backbone, "none")
        for site, table in method._tables().items():
            pair = torch.stack([bundle.tensors[f"{site}.keys"], bundle.tensors[f"{site}.values"]], dim=1)
            table.load_state_dict({"table": pair.float()})
        method.to(backbone.device)
        return method.attach(backbone).eval()

    def tracked_norms(self) -> dict[str, float]:
        """Also the mean L2 norm of the keys, and of the values, over layers, heads and positions, by site."""
        tensors = self.export()[1]
        return super().tracked_norms() | {name: float(tensor.norm(dim=-1).mean()) for name, tensor in tensors.items()}
