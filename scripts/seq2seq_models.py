"""Small encoder-decoders with random weights, and their tokenizers.

In: a kind (`bart` or `t5`), sizes, and a byte-level tokenizer. Out: a transformers model, and the tokenizer with the
special tokens of that kind.
"""

import argparse
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from denoising import MASK, SENTINELS
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import (
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

MAX_POSITIONS = 512

_START, _END = "<s>", "</s>"


def tokenizer_for(kind: str, folder: Path) -> Any:
    """Load a tokenizer, and add the special tokens of BART or T5: start and end, and mask or sentinels."""
    if not (folder / "tokenizer.json").is_file():
        raise SystemExit(f"`--tokenizer` must be a folder with a tokenizer.json, but '{folder}' has none.")
    padding = AutoTokenizer.from_pretrained(folder).pad_token or "<pad>"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    special_tokens = [_START, _END, MASK] if kind == "bart" else [_END, *SENTINELS]
    tokenizer.add_special_tokens([padding, *special_tokens])
    frame = f"{_START} $A {_END}" if kind == "bart" else f"$A {_END}"
    special = [(token, tokenizer.token_to_id(token)) for token in (_START, _END) if token in frame]
    tokenizer.post_processor = TemplateProcessing(single=frame, pair=None, special_tokens=special)
    own = {"bos_token": _START, "mask_token": MASK} if kind == "bart" else {}
    fast: Any = PreTrainedTokenizerFast
    return fast(tokenizer_object=tokenizer, eos_token=_END, pad_token=padding, model_max_length=MAX_POSITIONS, **own)


def new_model(kind: str, tokenizer: Any, arguments: argparse.Namespace) -> nn.Module:
    """Create a model without dropout: a small model does not see enough text to overfit."""
    shared: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "d_model": arguments.width,
    }
    return _new_bart(shared, tokenizer, arguments) if kind == "bart" else _new_t5(shared, tokenizer, arguments)


def _new_bart(shared: Mapping[str, Any], tokenizer: Any, arguments: argparse.Namespace) -> nn.Module:
    """A BART whose position embeddings start as sinusoids, so that untrained positions resemble trained ones."""
    config: Any = BartConfig(
        **shared,
        max_position_embeddings=MAX_POSITIONS,
        encoder_layers=arguments.layers,
        decoder_layers=arguments.layers,
        encoder_attention_heads=arguments.heads,
        decoder_attention_heads=arguments.heads,
        encoder_ffn_dim=arguments.feed_forward,
        decoder_ffn_dim=arguments.feed_forward,
        dropout=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        # As in the paper's models, the decoder starts with the end token.
        decoder_start_token_id=tokenizer.eos_token_id,
        forced_eos_token_id=tokenizer.eos_token_id,
    )
    model: Any = BartForConditionalGeneration(config)
    for table in (model.get_encoder().embed_positions, model.get_decoder().embed_positions):
        position = torch.arange(table.num_embeddings)[:, None]
        angle = position * 10_000 ** (-torch.arange(0, config.d_model, 2) / config.d_model)
        with torch.no_grad():
            table.weight.copy_(torch.cat([angle.sin(), angle.cos()], dim=1) * config.init_std * math.sqrt(2))
    return model


def _new_t5(shared: Mapping[str, Any], tokenizer: Any, arguments: argparse.Namespace) -> nn.Module:
    config_class: Any = T5Config
    config = config_class(
        **shared,
        d_kv=arguments.width // arguments.heads,
        num_heads=arguments.heads,
        num_layers=arguments.layers,
        d_ff=arguments.feed_forward,
        dropout_rate=0.0,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    model: nn.Module = T5ForConditionalGeneration(config)
    return model


@contextmanager
def encoder_positions_from(model: Any, first: int) -> Iterator[None]:
    """Within the context, BART's encoder positions start at `first`; T5 has no absolute positions."""
    table = getattr(model.get_encoder(), "embed_positions", None)
    if table is None:
        yield
        return
    hook = table.register_forward_pre_hook(lambda _, arguments: (arguments[0], first))
    try:
        yield
    finally:
        hook.remove()
