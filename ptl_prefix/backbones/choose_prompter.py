"""Chooses the prompter of a format: for conversations, or for any other sources.

In: a tokenizer, a `PromptFormat`, and what is known of the backbone. Out: a `Prompter`.
"""

from transformers import PreTrainedTokenizerBase

from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.backbones.chat_prompting import ChatPrompter
from ptl_prefix.backbones.prompting import Prompter


def choose_prompter(
    tokenizer: PreTrainedTokenizerBase,
    prompt_format: PromptFormat,
    *,
    decoder_start_id: int | None,
    num_ids: int | None,
    of: str,
) -> Prompter:
    """The prompter of a format.

    Args:
        tokenizer: The backbone's tokenizer.
        prompt_format: The task's format, or a bundle's.
        decoder_start_id: As in `Prompter`.
        num_ids: As in `Prompter`.
        of: Name of the backbone.

    Raises:
        ValueError: As `Prompter` and `ChatPrompter` do, or when an encoder-decoder would continue conversations.
        BackboneError: As `Prompter` does.
    """
    if prompt_format.chat is None:
        return Prompter(tokenizer, prompt_format, decoder_start_id=decoder_start_id, num_ids=num_ids)
    if decoder_start_id is not None:
        raise ValueError(
            f"Conversations must be continued by a decoder-only backbone, but {of} is an encoder-decoder; choose "
            "another backbone, or write each conversation as a source and train task=text_pairs."
        )
    return ChatPrompter(tokenizer, prompt_format, num_ids=num_ids)
