"""CIDEr-D of the E2E challenge: similarity of tf-idf weighted n-grams, as in COCO's caption evaluation.

Vedantam et al., CVPR 2015: the cosine between the hypothesis and each reference in n-grams of 1 to 4 words, with counts
clipped to the reference's and a penalty for length differences (sigma = 6), times 10. Words are lower-cased Penn
Treebank tokens without punctuation. The weight of an n-gram is the logarithm of the number of inputs, divided by the
number of inputs with the n-gram in a reference: a value depends on the whole set, and is 0 for a single input.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.evaluation.metric import MeanMetric
from ptl_prefix.evaluation.ptb_tokens import caption_words

_ORDERS = 4
_SIGMA = 6.0

Ngram = tuple[str, ...]


class CIDEr(MeanMetric):
    """Mean over inputs of the mean cosine with their references, times 10."""

    info = MetricInfo(scale="0-10", direction="maximize", version="1", library="ptl_prefix")
    scale = 10.0
    rows_depend_on_all = True

    def values(self, predictions: Sequence[Prediction]) -> list[float]:
        """The mean cosine of each prediction."""
        references = [[_ngrams(text) for text in prediction.references] for prediction in predictions]
        num_inputs_with = Counter(ngram for of_one in references for ngram in set().union(*of_one))
        log_inputs = math.log(len(predictions))

        def vector(counts: Counter[Ngram]) -> _Vector:
            weights = {
                ngram: count * (log_inputs - math.log(max(1, num_inputs_with[ngram])))
                for ngram, count in counts.items()
            }
            return _Vector(weights, _norms(weights), sum(count for ngram, count in counts.items() if len(ngram) == 2))

        values = []
        for prediction, of_one in zip(predictions, references, strict=True):
            hypothesis = vector(_ngrams(prediction.hypothesis))
            values.append(sum(_similarity(hypothesis, vector(reference)) for reference in of_one) / len(of_one))
        return values


@dataclass(frozen=True)
class _Vector:
    """A text as a vector of n-gram weights; COCO's code measures its length in word bigrams."""

    weights: dict[Ngram, float]
    norms: list[float]
    length: int


def _ngrams(text: str) -> Counter[Ngram]:
    words = caption_words(text)
    return Counter(
        tuple(words[start : start + n]) for n in range(1, _ORDERS + 1) for start in range(len(words) - n + 1)
    )


def _norms(weights: dict[Ngram, float]) -> list[float]:
    """The vector's norm for each n-gram order."""
    squares = [0.0] * _ORDERS
    for ngram, weight in weights.items():
        squares[len(ngram) - 1] += weight**2
    return [math.sqrt(square) for square in squares]


def _similarity(hypothesis: _Vector, reference: _Vector) -> float:
    """The mean over orders of clipped cosines, times a penalty for the difference in length."""
    products = [0.0] * _ORDERS
    for ngram, weight in hypothesis.weights.items():
        expected = reference.weights.get(ngram, 0.0)
        products[len(ngram) - 1] += min(weight, expected) * expected
    norms = [ours * theirs for ours, theirs in zip(hypothesis.norms, reference.norms, strict=True)]
    cosines = (product / norm for product, norm in zip(products, norms, strict=True) if norm)
    penalty = math.exp(-((hypothesis.length - reference.length) ** 2) / (2 * _SIGMA**2))
    return sum(cosines) / _ORDERS * penalty
