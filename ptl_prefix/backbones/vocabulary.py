"""The words of a backbone's vocabulary, and the keys and values that each of them gets.

In: a backbone. Out: its words, and for some layers what attention sees of every one of them. A word is read alone
behind one start token, as the second position of a text without a prefix. The start token is there because the first
position of any text is a place where attention rests: its keys and values hardly depend on the word. A rotary key is
as attention sees it, so rotated by one position.
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
"""Keys (index 0) and values (index 1) of some words in one layer, all heads side by side, float32."""


@dataclass(frozen=True)
class Word:
    """One entry of a vocabulary that reads as text.

    Args:
        token_id: Its id.
        text: What it adds to a text, with the space that it may start with.
    """

    token_id: int
    text: str


def vocabulary_words(backbone: Backbone) -> list[Word]:
    """Every token with a letter or a digit in it, by id; special ones and pieces of a character are no words."""
    tokenizer: PreTrainedTokenizerBase = backbone.tokenizer
    special = set(tokenizer.all_special_ids)
    ids = [i for i in range(min(len(tokenizer), backbone.config.vocab_size)) if i not in special]
    # Behind another token, as some tokenizers take the space off the first one of a text.
    (anchor,) = tokenizer("a", add_special_tokens=False).input_ids[-1:]
    lead = str(tokenizer.decode([anchor]))
    texts = tokenizer.batch_decode([[anchor, token_id] for token_id in ids], clean_up_tokenization_spaces=False)
    words = [Word(token_id, text.removeprefix(lead)) for token_id, text in zip(ids, texts, strict=True)]
    return [word for word in words if _BROKEN not in word.text and any(map(str.isalnum, word.text))]


@torch.no_grad()
def word_states(
    backbone: Backbone, words: Sequence[Word], layers: Mapping[str, Sequence[int]]
) -> dict[str, dict[int, WordStates]]:
    """The keys and values of words, on the CPU.

    Args:
        backbone: Its slots may be filled: they are not looked at.
        words: Read in batches; what is kept grows with words and layers.
        layers: Which layers of each site are kept. A site that does not read the word itself is left out.
    """
    kept: dict[str, dict[int, list[Tensor]]] = {
        site: {layer: [] for layer in wanted} for site, wanted in layers.items()
    }
    for start in range(0, len(words), _BATCH_WORDS):
        inputs = _behind_a_start(backbone, words[start : start + _BATCH_WORDS])
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


def _behind_a_start(backbone: Backbone, words: Sequence[Word]) -> ModelInputs:
    bos, eos = backbone.tokenizer.bos_token_id, backbone.tokenizer.eos_token_id
    ids = torch.tensor([[eos if bos is None else bos, word.token_id] for word in words])
    return text_for_every_site(backbone, ids)
