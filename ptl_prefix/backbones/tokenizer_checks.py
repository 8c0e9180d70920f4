"""What a tokenizer must be able to do before a model is trained on its ids.

In: a tokenizer, and the config of a model. Out: the first reason why they cannot be used together.
"""

from itertools import islice
from typing import Any

from transformers import PreTrainedTokenizerBase

_WORDS = ("the", "house", "and", "a", "1", "la", "der", "на", "的", "の", "ال", "है")
"""Ordinary words of several scripts. A tokenizer that knows none of them is asked for words of its own vocabulary."""
_NUM_OWN_WORDS = 200


def tokenizer_problem(tokenizer: PreTrainedTokenizerBase, *, of: str) -> str | None:
    """The first reason why a tokenizer cannot make texts for a model, as a sentence; `None` if there is none.

    Args:
        tokenizer: The tokenizer.
        of: Path of the model.
    """
    if tokenizer.eos_token_id is None:
        return f"A backbone's tokenizer must have an end-of-text token, but that of '{of}' has none."
    if knows_words(tokenizer):
        return None
    return (
        "A backbone's tokenizer must turn ordinary words into ids that are neither special nor unknown, but that of "
        f"'{of}' turns none into such an id: its files are missing or of another tokenizer; copy them from where the "
        "model comes from."
    )


def used_id_problem(tokenizer: PreTrainedTokenizerBase, config: Any, *, of: str) -> str | None:
    """The first id that every batch uses and the model has no embedding of, as a sentence; `None` if there is none.

    Args:
        tokenizer: The tokenizer.
        config: The model's transformers config.
        of: Path of the model.
    """
    used = {
        "eos_token": tokenizer.eos_token_id,
        "pad_token": tokenizer.pad_token_id,
        "bos_token": tokenizer.bos_token_id,
    }
    if config.is_encoder_decoder:
        used["decoder_start_token_id"] = getattr(config, "decoder_start_token_id", None)
    for name, token_id in used.items():
        if token_id is not None and not (isinstance(token_id, int) and 0 <= token_id < config.vocab_size):
            return (
                f"An id that is used must be a row of the embeddings, from 0 to {config.vocab_size - 1}, but the "
                f"`{name}` of '{of}' is {token_id!r}; use the tokenizer and the config that belong to the model."
            )
    return None


def knows_words(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether some word becomes an id that is neither special nor unknown."""
    unusable = {*tokenizer.all_special_ids, tokenizer.unk_token_id}
    own = (token for token, token_id in tokenizer.get_vocab().items() if token_id not in unusable)
    own_words = islice((token for token in own if any(map(str.isalnum, token))), _NUM_OWN_WORDS)
    for words in (_WORDS, tuple(own_words)):
        if words and any(set(ids) - unusable for ids in _ids(tokenizer, words)):
            return True
    return False


def _ids(tokenizer: PreTrainedTokenizerBase, words: tuple[str, ...]) -> list[list[int]]:
    encoded = tokenizer(list(words), add_special_tokens=False, split_special_tokens=True, verbose=False)
    return [list(ids) for ids in encoded.input_ids]
