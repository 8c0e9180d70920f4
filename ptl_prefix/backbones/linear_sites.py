"""The linear modules of each model family, for methods that adapt weight matrices.

In: a model. Out: its linear modules by path, and the family's names for those of attention and of the feed-forward
layers; its normalisation layers likewise. Only this module knows the classes of linear modules: GPT-2's `Conv1D` stores
its matrix transposed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn
from transformers.pytorch_utils import Conv1D

from ptl_prefix.backbones.backbone import Backbone


@dataclass(frozen=True)
class LinearNames:
    """A family's names for its linear modules; a name may be the end of several paths.

    Args:
        query: The query projection.
        key: The key projection; the same name if one matrix computes queries, keys and values.
        value: The value projection; likewise.
        narrowing: The down projection of the feed-forward layer, from its inner width to the model's.
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
"""By the names of `attention_sites.FAMILIES`."""


@dataclass(frozen=True)
class LinearSite:
    """A linear module and its path.

    Args:
        path: Path in the model.
        module: The module.
        width_in: Number of input features.
        width_out: Number of output features.
        is_transposed: Whether its weight is stored as (in, out).
    """

    path: str
    module: nn.Module
    width_in: int
    width_out: int
    is_transposed: bool

    def is_named(self, name: str) -> bool:
        """Whether `name` is the end of the path in whole components: `c_proj` or `mlp.c_proj`, but not `proj`."""
        return f".{self.path}".endswith(f".{name}")


def linear_sites(backbone: Backbone) -> list[LinearSite]:
    """All linear modules of a backbone but the LM head, in the order of the forward pass."""
    head = backbone.model.get_output_embeddings()
    return [_site(path, module) for path, module in backbone.model.named_modules() if _is_linear(module, head)]


def norm_sites(backbone: Backbone) -> list[LinearSite]:
    """All normalisation layers with a trainable scale, in the order of the forward pass; their widths are equal."""
    found = [
        (path, module, module.weight)
        for path, module in backbone.model.named_modules()
        if type(module).__name__.endswith("Norm") and isinstance(getattr(module, "weight", None), nn.Parameter)
    ]
    return [LinearSite(path, module, len(scale), len(scale), is_transposed=False) for path, module, scale in found]


def sites_named(backbone: Backbone, names: Sequence[str]) -> list[LinearSite]:
    """The linear modules that one of these names matches, each once, in the order of the forward pass."""
    return [site for site in linear_sites(backbone) if any(site.is_named(name) for name in names)]


def replace_module(model: nn.Module, path: str, module: nn.Module) -> None:
    """Replace the module at a path; the order of the model's modules stays the same."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def _is_linear(module: nn.Module, head: nn.Module | None) -> bool:
    return isinstance(module, nn.Linear | Conv1D) and module is not head


def _site(path: str, module: nn.Module) -> LinearSite:
    if isinstance(module, nn.Linear):
        return LinearSite(path, module, module.in_features, module.out_features, is_transposed=False)
    width_in, width_out = module.weight.shape  # type: ignore[misc]
    return LinearSite(path, module, width_in, width_out, is_transposed=True)
