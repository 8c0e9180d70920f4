"""Where the tokens of a text lie in it.

In: a tokenizer and a text. Out: for each token the first and the end of its characters.
"""

from transformers import PreTrainedTokenizerBase

from ptl_prefix.errors import BackboneError


def token_spans(tokenizer: PreTrainedTokenizerBase, text: str) -> list[tuple[int, int]]:
    """The characters of each token: the index of the first one, and that after the last one.

    Special tokens are neither added nor recognised.

    Raises:
        BackboneError: The tokenizer does not know where its tokens lie.
    """
    if not tokenizer.is_fast:
        raise BackboneError(
            "A document is divided by a tokenizer that knows where its tokens lie, but "
            f"{type(tokenizer).__name__} does not; give the backbone's folder a tokenizer.json."
        )
    # Not verbose: it would warn of a text that is longer than the model's limit.
    encoded = tokenizer(
        text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True, verbose=False
    )
    return [(int(first), int(end)) for first, end in encoded["offset_mapping"]]
