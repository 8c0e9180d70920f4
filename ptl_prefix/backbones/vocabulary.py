"""The words of a backbone's vocabulary, with their keys and values.

In: a backbone. Out: its words, and the keys and values of each word in some layers. A word is read alone after a start
token, as the second position of a text without a prefix, because the first position of a text is an attention sink:
its keys and values hardly depend on the word. Rotary keys are rotated, by one position.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.backbones.observation import observed_keys_values, text_for_every_site

_BATCH_WORDS = 256
_BROKEN = "\N{REPLACEMENT CHARACTER}"

WordStates = Float[Tensor, "two words kv_width"]
"""Keys (index 0) and values (index 1) of words in one layer, heads concatenated, float32."""


@dataclass(frozen=True)
class Word:
    """An entry of a vocabulary that is readable text.

    Args:
        token_id: Id of the token.
        text: Text of the token, with a leading space if it has one.
    """

    token_id: int
    text: str


def vocabulary_words(backbone: Backbone) -> list[Word]:
    """All tokens that contain a letter or digit, by id, without special tokens and parts of a character."""
    tokenizer: PreTrainedTokenizerBase = backbone.tokenizer
    special = set(tokenizer.all_special_ids)
    ids = [i for i in range(min(len(tokenizer), backbone.config.vocab_size)) if i not in special]
    # After another token, because some tokenizers strip the space of a text's first token.
    (anchor,) = tokenizer("a", add_special_tokens=False).input_ids[-1:]
    lead = str(tokenizer.decode([anchor]))
    texts = tokenizer.batch_decode([[anchor, token_id] for token_id in ids], clean_up_tokenization_spaces=False)
    words = [Word(token_id, text.removeprefix(lead)) for token_id, text in zip(ids, texts, strict=True)]
    return [word for word in words if _BROKEN not in word.text and any(map(str.isalnum, word.text))]


@torch.no_grad()
def word_states(
    backbone: Backbone, words: Sequence[Word], layers: Mapping[str, Sequence[int]]
) -> dict[str, dict[int, WordStates]]:
    """The keys and values of words, on the CPU, by site and layer.

    Args:
        backbone: The backbone; a prefix in its slots has no effect.
        words: The words; they are read in batches.
        layers: Indices of the layers to return, by site. A site that does not read the word itself
            (`decoder_cross`) is left out.
    """
    kept: dict[str, dict[int, list[Tensor]]] = {
        site: {layer: [] for layer in wanted} for site, wanted in layers.items()
    }
    for start in range(0, len(words), _BATCH_WORDS):
        inputs = _after_start_token(backbone, words[start : start + _BATCH_WORDS])
        observed = observed_keys_values(backbone, inputs)
        for site, wanted in layers.items():
            for layer in wanted:
                pair = torch.stack(observed[site][layer])  # (2, words, kv_heads, text, head_dim)
                if pair.shape[3] == inputs.input_ids.shape[1]:
                    kept[site][layer].append(pair[:, :, :, -1].flatten(2).float().cpu())
    return {
        site: {layer: torch.cat(parts, dim=1) for layer, parts in of_site.items()}
        for site, of_site in kept.items()
        if all(of_site.values())
    }


def _after_start_token(backbone: Backbone, words: Sequence[Word]) -> ModelInputs:
    bos, eos = backbone.tokenizer.bos_token_id, backbone.tokenizer.eos_token_id
    ids = torch.tensor([[eos if bos is None else bos, word.token_id] for word in words])
    return text_for_every_site(backbone, ids)
