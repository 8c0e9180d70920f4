"""Gated prefix (LLaMA-Adapter, Zhang et al., 2024): zero-initialised attention to a trained prefix.

In: a backbone, once; a batch, per forward pass. Out: in every head of every selected layer

    softmax(Q K^T) V + tanh(gate) softmax(Q P_K^T) P_V

in place of the first term. P_K and P_V are trained keys and values; `gate` is a trained number for each query head. It
starts at 0, so that training starts from exactly the bare backbone. Each term has a softmax of its own: the text's does
not see the prefix, as it does in prefix-tuning.

Differences from the paper (arXiv 2303.16199) and the authors' code (github.com/OpenGVLab/LLaMA-Adapter): keys and
values are trained directly, instead of one vector per position that the frozen layer projects to both; by default they
are in every layer, where the paper has them in the topmost 30 of 32; an encoder-decoder has them at each of its sites.
As in the authors' code, rotary embeddings do not rotate the prefix's keys.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from ptl_prefix.artifacts.bundle import Bundle
from ptl_prefix.backbones.attention_additions import GatedStates
from ptl_prefix.backbones.attention_sites import num_query_heads
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.methods import prefix_checks
from ptl_prefix.methods.added_prefix import AddedPrefix
from ptl_prefix.methods.prefix_start import PrefixStart
from ptl_prefix.methods.prefix_table import PlainTable
from ptl_prefix.methods.start_inputs import StartInputs
from ptl_prefix.settings import settings_from


class GatedPrefix(AddedPrefix):
    """Adds gated attention to `prefix_length` trained positions to the output of attention.

    Args:
        name: Name of the method in run folders and records.
        default_lr: Learning rate of a run that sets none.
        match_parameters: Number of stored parameters to come closest to, by choosing the length; `None` uses
            `prefix_length`.
        prefix_length: Number of prefix positions per attention layer.
        init: Initial keys and values. `random`: normal, with the standard deviations of the backbone's own in each
            layer, or 1 if that is more. `text`: those of words.
        init_text: Words for `init=text`, repeated if they have fewer tokens than the prefix has positions; `None` takes
            the task's instruction.
        layers: Indices of the layers that get a prefix; `None` is every layer.
        sites: Names of the attention sites that get a prefix; `None` is every site of the backbone.
    """

    kind = "gated_prefix"

    @settings_from("method/gated_prefix")
    def __init__(
        self,
        *,
        name: str,
        default_lr: Annotated[float, Gt(0)],
        match_parameters: Annotated[int, Ge(1)] | None,
        prefix_length: Annotated[int, Ge(1)],
        init: Literal["random", "text"],
        init_text: str | None,
        layers: Sequence[int] | None,
        sites: Sequence[str] | None,
    ) -> None:
        super().__init__(
            name=name, default_lr=default_lr, layers=layers, sites=sites, match_parameters=match_parameters
        )
        self.prefix_length = prefix_length
        self.init: Literal["random", "text"] = init
        self.init_text = init_text
        self._start_inputs = StartInputs()
        self._skips_start = False
        self.tables = nn.ModuleDict()
        self.gates = nn.ParameterDict()

    def provide_start_inputs(self, inputs: StartInputs) -> None:
        """Keep the task's instruction for `init=text`."""
        self._start_inputs = inputs

    def skip_start(self) -> None:
        """Leave the tables as drawn."""
        self._skips_start = True

    @property
    def size_setting(self) -> str:
        """The length of the prefix."""
        return "prefix_length"

    def incompatibilities(self, backbone: Backbone) -> list[str]:
        """Also an initialisation without its text."""
        return super().incompatibilities(backbone) + prefix_checks.init_problems(self._start(), "none", backbone)

    def _additions(self, site: str) -> list[GatedStates]:
        table = self.tables[site]()  # (layers, 2, kv_heads, prefix, head_dim)
        gates = self.gates[site].tanh()  # (layers, heads)
        return [GatedStates(key, value, gate) for (key, value), gate in zip(table, gates, strict=True)]

    def _create(self, backbone: Backbone) -> None:
        if self.tables:
            return
        self._set_parameters(backbone)
        if backbone.is_shape_only or self._skips_start:
            return
        if note := self._start().initialise(self._tables(), backbone, self._selected_layers(backbone)):
            self.notes.append(note)

    def _start(self) -> PrefixStart:
        return PrefixStart(
            init=self.init,
            init_text=self.init_text,
            init_num_chunks=None,
            init_num_tokens=None,
            init_bundle=None,
            inputs=self._start_inputs,
            prefix_length=self.prefix_length,
            num_frozen=0,
            text_start=0,
        )

    def _set_parameters(self, backbone: Backbone) -> None:
        """New tables of random numbers, and gates of 0."""
        num_heads = num_query_heads(backbone.config)
        with torch.device(backbone.device):
            for site, layers in self._selected_layers(backbone).items():
                geometry = replace(backbone.geometry[site], num_layers=len(layers))
                self.tables[site] = PlainTable(geometry, self.prefix_length)
                self.gates[site] = nn.Parameter(torch.zeros(len(layers), num_heads[site]))

    def _tables(self) -> dict[str, PlainTable]:
        tables: dict[str, PlainTable] = dict(self.tables.items())  # type: ignore[arg-type]
        return tables

    @torch.no_grad()
    def export(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Keys and values as prefix-tuning has them, and `<site>.gates`, (layers, heads), before the tanh; float32."""
        tensors = {}
        for site, table in self._tables().items():
            keys, values = table().detach().cpu().unbind(1)
            tensors[f"{site}.keys"] = keys.contiguous()
            tensors[f"{site}.values"] = values.contiguous()
            tensors[f"{site}.gates"] = self.gates[site].detach().cpu().clone()
        return {"prefix_length": self.prefix_length, **self._place_settings()}, tensors

    @classmethod
    def restore(cls, bundle: Bundle, backbone: Backbone) -> Self:
        """Build the method of a bundle, and attach it to `backbone`."""
        method = cls(name=bundle.manifest.method, init="random", **bundle.manifest.settings)
        method._set_parameters(backbone)
        state: dict[str, Tensor] = {}
        for site in method.tables:
            pair = torch.stack([bundle.tensors[f"{site}.keys"], bundle.tensors[f"{site}.values"]], dim=1)
            state |= {f"tables.{site}.table": pair.float(), f"gates.{site}": bundle.tensors[f"{site}.gates"].float()}
        method.load_state_dict(state)
        return method.attach(backbone).eval()

    @torch.no_grad()
    def tracked_norms(self) -> dict[str, float]:
        """Also the mean of |tanh(gate)| over layers and heads, by site: how far the gates are open."""
        gates = {f"{site}.gates": float(gates.tanh().abs().mean()) for site, gates in self.gates.items()}
        return super().tracked_norms() | gates
