"""Where each model family keeps its matrices, for methods that change them.

In: a model. Out: its linear modules by path, and what a family calls those of attention and of the feed-forward layer.
The classes among which a linear module may be are known here alone: GPT-2 keeps its matrices in a class of its own,
transposed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn
from transformers.pytorch_utils import Conv1D

from ptl_prefix.backbones.backbone import Backbone


@dataclass(frozen=True)
class LinearNames:
    """What a family calls its linear modules; a name may be the end of several paths.

    Args:
        query: What makes queries.
        key: What makes keys; the same name where one matrix makes queries, keys and values.
        value: What makes values, likewise.
        narrowing: What leads from the feed-forward layer's inner width back to the model's.
    """

    query: str
    key: str
    value: str
    narrowing: str


_LLAMA_LIKE = LinearNames("q_proj", "k_proj", "v_proj", "down_proj")
_BART_LIKE = LinearNames("q_proj", "k_proj", "v_proj", "fc2")
_T5_LIKE = LinearNames("q", "k", "v", "wo")

LINEAR_NAMES: Mapping[str, LinearNames] = {
    "bart": _BART_LIKE,
    "gemma": _LLAMA_LIKE,
    "gemma2": _LLAMA_LIKE,
    "gemma3_text": _LLAMA_LIKE,
    "gpt2": LinearNames("c_attn", "c_attn", "c_attn", "mlp.c_proj"),
    "gpt_neox": LinearNames("query_key_value", "query_key_value", "query_key_value", "dense_4h_to_h"),
    "llama": _LLAMA_LIKE,
    "mbart": _BART_LIKE,
    "mistral": _LLAMA_LIKE,
    "mt5": _T5_LIKE,
    "opt": _BART_LIKE,
    "qwen2": _LLAMA_LIKE,
    "qwen3": _LLAMA_LIKE,
    "t5": _T5_LIKE,
}
"""By the family's name, as in `attention_sites.FAMILIES`."""


@dataclass(frozen=True)
class LinearSite:
    """A linear module and where it is.

    Args:
        path: Its path in the model.
        module: The module itself.
        width_in: Numbers that it takes.
        width_out: Numbers that it gives.
        is_transposed: Whether its matrix is kept as (in, out).
    """

    path: str
    module: nn.Module
    width_in: int
    width_out: int
    is_transposed: bool

    def is_named(self, name: str) -> bool:
        """Whether `name` is the end of the path, by whole parts: `c_proj` and `mlp.c_proj`, but not `proj`."""
        return f".{self.path}".endswith(f".{name}")


def linear_sites(backbone: Backbone) -> list[LinearSite]:
    """Every linear module of the layers, in the order of the forward pass; the output embedding is none of them."""
    head = backbone.model.get_output_embeddings()
    return [_site(path, module) for path, module in backbone.model.named_modules() if _is_linear(module, head)]


def sites_named(backbone: Backbone, names: Sequence[str]) -> list[LinearSite]:
    """The linear modules of these names, each once."""
    return [site for site in linear_sites(backbone) if any(site.is_named(name) for name in names)]


def replace_module(model: nn.Module, path: str, module: nn.Module) -> None:
    """Let `module` stand where another one does, in the same place of the order."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def _is_linear(module: nn.Module, head: nn.Module | None) -> bool:
    return isinstance(module, nn.Linear | Conv1D) and module is not head


def _site(path: str, module: nn.Module) -> LinearSite:
    if isinstance(module, nn.Linear):
        return LinearSite(path, module, module.in_features, module.out_features, is_transposed=False)
    width_in, width_out = module.weight.shape  # type: ignore[misc]
    return LinearSite(path, module, width_in, width_out, is_transposed=True)
