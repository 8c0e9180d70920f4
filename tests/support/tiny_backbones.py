"""Backbones small enough to test every law on: one for each family, made here, equal on every machine.

In: a family's name and a folder. Out: the folder, holding a model and a tokenizer as a user's own folder would. A new
family enters by one entry in `TINY_CONFIGS`.
"""

# torch and transformers are imported where they are used: tests of the command line read the families' names only.
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

VOCABULARY = 288
MAX_POSITIONS = 64
BOS, EOS, PAD = 0, 1, 2

_SPECIAL_IDS = {"vocab_size": VOCABULARY, "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}

_ROTARY = {
    "max_position_embeddings": MAX_POSITIONS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
# Fewer heads of keys than of queries, and heads wider than hidden size over heads: 12, where 32 / 4 is 8.
_GROUPED = {**_ROTARY, "num_key_value_heads": 2, "head_dim": 12}
_BART = {
    "max_position_embeddings": MAX_POSITIONS,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "decoder_start_token_id": EOS,
    "forced_eos_token_id": EOS,
}
# As in flan-T5's smallest: heads together wider than the model, encoder and decoder of different depth.
_T5 = {
    "d_model": 32,
    "d_kv": 12,
    "num_heads": 4,
    "d_ff": 48,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "decoder_start_token_id": PAD,
}

TINY_CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "bart": _BART,
    "gemma": _GROUPED,
    # Windows shorter than the texts of the tests, and a bound small enough to bend the scores.
    "gemma2": {**_GROUPED, "sliding_window": 4, "attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 12},
    "gemma3_text": {
        **_GROUPED,
        "sliding_window": 4,
        "query_pre_attn_scalar": 12,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "gpt2": {"n_positions": MAX_POSITIONS, "n_embd": 32, "n_layer": 3, "n_head": 4},
    "gpt_neox": _ROTARY,
    "llama": _GROUPED,
    "mbart": _BART,
    "mistral": {**_GROUPED, "sliding_window": 4},
    "mt5": {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "opt": {
        "max_position_embeddings": MAX_POSITIONS,
        "hidden_size": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "word_embed_proj_dim": 24,
    },
    "qwen2": {
        **{name: value for name, value in _GROUPED.items() if name != "head_dim"},
        "use_sliding_window": True,
        "sliding_window": 4,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
    },
    "qwen3": _GROUPED,
    "t5": _T5,
}

_BARTS = ("bart", "mbart")
_LINES = ("the cat sat on the mat", "a name : Wildwood , a food : Italian", "in the city there is a pub")


def tiny_config(family: str) -> "PretrainedConfig":
    """What transformers must know to build the tiny model of a family."""
    from transformers import AutoConfig

    return AutoConfig.for_model(family, **_SPECIAL_IDS, **TINY_CONFIGS[family])


def save_tiny_backbone(family: str, folder: Path, *, seed: int = 0) -> Path:
    """Write a model of random weights and its tokenizer; another seed gives other weights to the same tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    config = tiny_config(family)
    kind: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = kind.from_config(config, dtype=torch.float32)
    set_weights(model, seed)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def set_weights(model: "PreTrainedModel", seed: int) -> None:
    """Give weights that depend on names alone, so that no library's order of initialisation can change them.

    Matrices are large enough for each layer to change the logits by whole units: a prefix that is dropped somewhere is
    far outside every tolerance.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            numbers = torch.randn(parameter.shape, generator=generator)
            # T5 does not scale its scores: its queries are small instead. BART's norms come last, and blow small
            # differences up.
            size = 0.06 if name.endswith("Attention.q.weight") else 0.18 if model.config.model_type in _BARTS else 0.25
            # Vectors are biases and the scales of norms, which start at 0 and 1.
            parameter.copy_(size * numbers if parameter.dim() > 1 else parameter + 0.1 * numbers)


def tiny_tokenizer() -> "PreTrainedTokenizerFast":
    """A byte-level tokenizer trained on three lines; it reads and writes any text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<bos>", "<eos>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_LINES, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        model_max_length=MAX_POSITIONS,
    )
