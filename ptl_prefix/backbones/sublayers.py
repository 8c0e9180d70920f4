"""The last module of each sublayer, by model family: its output is added to the residual stream.

In: a model. Out: for each kind of sublayer (attention at a site, or feed-forward) one module per layer. A norm or
dropout between a projection and the residual belongs to the sublayer. A new family needs one entry in `SUBLAYERS`.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from ptl_prefix.backbones.attention_sites import family_of, modules_at

FEED_FORWARD = "feed_forward"
"""Suffix of the names of feed-forward sublayers; attention sublayers have the names of their sites."""


def _decoder_only(layers: str, attention: str, feed_forward: str) -> dict[str, str]:
    return {"decoder_self": f"{layers}.*.{attention}", f"decoder_{FEED_FORWARD}": f"{layers}.*.{feed_forward}"}


_LLAMA_LIKE = _decoder_only("model.layers", "self_attn.o_proj", "mlp")
# Their sublayers end with a norm.
_GEMMA2_LIKE = _decoder_only("model.layers", "post_attention_layernorm", "post_feedforward_layernorm")
_BART_LIKE = {
    "encoder_self": "model.encoder.layers.*.self_attn.out_proj",
    f"encoder_{FEED_FORWARD}": "model.encoder.layers.*.fc2",
    "decoder_self": "model.decoder.layers.*.self_attn.out_proj",
    "decoder_cross": "model.decoder.layers.*.encoder_attn.out_proj",
    f"decoder_{FEED_FORWARD}": "model.decoder.layers.*.fc2",
}
_T5_LIKE = {
    "encoder_self": "encoder.block.*.layer.0.dropout",
    f"encoder_{FEED_FORWARD}": "encoder.block.*.layer.1.dropout",
    "decoder_self": "decoder.block.*.layer.0.dropout",
    "decoder_cross": "decoder.block.*.layer.1.dropout",
    f"decoder_{FEED_FORWARD}": "decoder.block.*.layer.2.dropout",
}

SUBLAYERS: Mapping[str, Mapping[str, str]] = {
    "bart": _BART_LIKE,
    "gemma": _LLAMA_LIKE,
    "gemma2": _GEMMA2_LIKE,
    "gemma3_text": _GEMMA2_LIKE,
    "gpt2": _decoder_only("transformer.h", "attn.resid_dropout", "mlp"),
    "gpt_neox": _decoder_only("gpt_neox.layers", "post_attention_dropout", "post_mlp_dropout"),
    "llama": _LLAMA_LIKE,
    "mbart": _BART_LIKE,
    "mistral": _LLAMA_LIKE,
    "mt5": _T5_LIKE,
    "opt": _decoder_only("model.decoder.layers", "self_attn.out_proj", "fc2"),
    "qwen2": _LLAMA_LIKE,
    "qwen3": _LLAMA_LIKE,
    "t5": _T5_LIKE,
}
"""By the names of `attention_sites.FAMILIES`: the path of each kind of sublayer's last module; `*` is the layer."""


def sublayer_ends(model: nn.Module, config: Any) -> dict[str, tuple[nn.Module, ...]]:
    """The last module of every sublayer, by kind of sublayer, in layer order.

    Raises:
        BackboneError: When the family is not supported.
    """
    family_of(config)
    return {kind: modules_at(model, path) for kind, path in SUBLAYERS[config.model_type].items()}
