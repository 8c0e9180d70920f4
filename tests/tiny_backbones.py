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

TINY_CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "gpt2": {"n_positions": MAX_POSITIONS, "n_embd": 32, "n_layer": 3, "n_head": 4},
    # Fewer heads of keys than of queries, and heads wider than hidden size over heads: 12, where 32 / 4 is 8.
    "llama": {
        "max_position_embeddings": MAX_POSITIONS,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,
    },
}

_LINES = ("the cat sat on the mat", "a name : Wildwood , a food : Italian", "in the city there is a pub")


def tiny_config(family: str) -> "PretrainedConfig":
    """What transformers must know to build the tiny model of a family."""
    from transformers import AutoConfig

    return AutoConfig.for_model(family, **_SPECIAL_IDS, **TINY_CONFIGS[family])


def save_tiny_backbone(family: str, folder: Path, *, seed: int = 0) -> Path:
    """Write a model of random weights and its tokenizer; another seed gives other weights to the same tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(tiny_config(family), dtype=torch.float32)
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
        for _, parameter in sorted(model.named_parameters()):
            numbers = torch.randn(parameter.shape, generator=generator)
            # Vectors are biases and the scales of norms, which start at 0 and 1.
            parameter.copy_(0.25 * numbers if parameter.dim() > 1 else parameter + 0.1 * numbers)


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
