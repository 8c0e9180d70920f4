"""The vocabulary words nearest to each virtual token of a layer.

In: the keys and values of a prefix and of the vocabulary's words. Out: for each virtual token the nearest words by key
and by value, and the cosine that a random vector reaches.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ptl_prefix.artifacts.inspection import NearestWords, NearWord
from ptl_prefix.backbones.prefix_states import LayerStates
from ptl_prefix.backbones.vocabulary import Word, WordStates

NUM_RANDOM = 64
"""Number of random vectors that the chance level is averaged over."""

_DECIMALS = 6


def find_nearest_words(
    prefix: LayerStates, states: WordStates, words: Sequence[Word], *, layer: int, top_k: int
) -> NearestWords:
    """Find the words nearest to each virtual token of a layer.

    Args:
        prefix: Keys and values of the layer's prefix, one row.
        states: Keys and values of `words` in the same layer.
        words: Words to compare with.
        layer: Index of the layer.
        top_k: Number of words for each virtual token.
    """
    lists, chances = [], []
    for vectors, of_words in zip((prefix.key, prefix.value), states, strict=True):
        flat = vectors[0].transpose(0, 1).flatten(1).float().cpu()  # (prefix, kv_heads * head_dim)
        cosines, indices = cosines_without_mean(flat, of_words).topk(min(top_k, len(words)), dim=1)
        lists.append(
            tuple(
                tuple(
                    NearWord(text=words[index].text, token_id=words[index].token_id, cosine=round(cosine, _DECIMALS))
                    for cosine, index in zip(*row, strict=True)
                )
                for row in zip(cosines.tolist(), indices.tolist(), strict=True)
            )
        )
        chances.append(round(_chance(of_words), _DECIMALS))
    return NearestWords(
        layer=layer, by_key=lists[0], by_value=lists[1], chance_by_key=chances[0], chance_by_value=chances[1]
    )


def cosines_without_mean(
    vectors: Float[Tensor, "vectors width"], of_words: Float[Tensor, "words width"]
) -> Float[Tensor, "vectors words"]:
    """Cosines after projecting out the direction of the words' mean, which would make all words similar.

    The direction is projected out of both sides, not subtracted: otherwise a prefix vector that is longer, shorter or
    reversed along it would be near to the same few words for that reason alone.
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
