"""Which words a virtual token resembles, in one layer.

In: the keys and values of a prefix and of the vocabulary's words. Out: for each virtual token the nearest words by key
and by value, and how near a word comes to a random vector.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ptl_prefix.artifacts.inspection import NearestWords, NearWord
from ptl_prefix.backbones.prefix_states import LayerStates
from ptl_prefix.backbones.vocabulary import Word, WordStates

NUM_RANDOM = 64
"""Random vectors whose nearest words say what chance is."""

_DECIMALS = 6


def find_nearest_words(
    prefix: LayerStates, states: WordStates, words: Sequence[Word], *, layer: int, top_k: int
) -> NearestWords:
    """The words nearest to each virtual token of a layer.

    Args:
        prefix: The layer's, one row.
        states: Keys and values of `words` in the same layer.
        words: What is compared with.
        layer: The layer's index.
        top_k: Words for each virtual token.
    """
    lists, chances = [], []
    for vectors, of_words in zip((prefix.key, prefix.value), states, strict=True):
        flat = vectors[0].transpose(0, 1).flatten(1).float().cpu()  # (prefix, kv_heads * head_dim)
        cosines, places = cosines_without_mean(flat, of_words).topk(min(top_k, len(words)), dim=1)
        lists.append(
            tuple(
                tuple(
                    NearWord(text=words[place].text, token_id=words[place].token_id, cosine=round(cosine, _DECIMALS))
                    for cosine, place in zip(*row, strict=True)
                )
                for row in zip(cosines.tolist(), places.tolist(), strict=True)
            )
        )
        chances.append(round(_chance(of_words), _DECIMALS))
    return NearestWords(
        layer=layer, by_key=lists[0], by_value=lists[1], chance_by_key=chances[0], chance_by_value=chances[1]
    )


def cosines_without_mean(
    vectors: Float[Tensor, "vectors width"], of_words: Float[Tensor, "words width"]
) -> Float[Tensor, "vectors words"]:
    """Cosines after the direction of the words' mean is taken out of both sides: it would make all words alike.

    Taken out, not subtracted: a prefix of another length or sign along it would otherwise be near to the same few
    words for what it lacks.
    """
    shared = _directions(of_words.mean(dim=0))
    return _directions(_without(vectors, shared)) @ _directions(_without(of_words, shared)).T


def _chance(of_words: Tensor) -> float:
    drawn = torch.randn(NUM_RANDOM, of_words.shape[1], generator=torch.Generator().manual_seed(0))
    return float(cosines_without_mean(drawn, of_words).amax(dim=1).mean())


def _without(vectors: Tensor, direction: Tensor) -> Tensor:
    return vectors - (vectors @ direction)[:, None] * direction


def _directions(vectors: Tensor) -> Tensor:
    return nn.functional.normalize(vectors, dim=-1)
