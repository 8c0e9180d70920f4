"""NIST of the E2E challenge: n-gram matches weighted by their information, on lower-cased mteval-v13a tokens.

Doddington, HLT 2002, as mteval-v13a.pl computes it: n-grams of all references count, and the length is compared with
the mean length of the references over the whole set. NLTK's `corpus_nist` uses the best reference alone for both, which
gives another number.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.evaluation.metric import Metric, Statistics, library

_ORDERS = 5
_PENALTY_RATE = math.log(2) / math.log(1.5) ** 2  # halves the score of outputs two thirds as long as the references

Ngram = tuple[str, ...]


class NIST(Metric):
    """Matched information in bits per n-gram, summed over n-grams of 1 to 5 words.

    The information of an n-gram is that of its last word given the others, estimated from all references of the set.
    """

    info = MetricInfo(scale="bits", direction="maximize", version="1", library=f"ptl_prefix, {library('sacrebleu')}")
    rows_depend_on_all = True

    def statistics(self, predictions: Sequence[Prediction]) -> Statistics:
        """Matched information per order, n-grams per order, words, words of references, number of references, 1."""
        tokenised: Callable[[str], str] = Tokenizer13a()  # type: ignore[no-untyped-call]

        def words(text: str) -> list[str]:
            return tokenised(text.lower().rstrip()).split()

        references = [[words(text) for text in prediction.references] for prediction in predictions]
        information = _information(reference for of_one in references for reference in of_one)
        rows = []
        for prediction, of_one in zip(predictions, references, strict=True):
            hypothesis = words(prediction.hypothesis)
            length = sum(map(len, of_one))
            rows.append([*_matched(hypothesis, of_one, information), len(hypothesis), length, len(of_one), 1])
        return np.array(rows, dtype=np.float64)

    def value(self, total: Statistics) -> float:
        """The sum over orders of information per n-gram, times a penalty for being shorter than the references."""
        matched, written = total[:_ORDERS], total[_ORDERS : 2 * _ORDERS]
        words, reference_words, num_references, segments = total[2 * _ORDERS :]
        mean_length = reference_words * segments / num_references
        if not words or not mean_length:
            return 0.0
        shortness = math.log(min(1.0, words / mean_length))
        per_ngram = np.divide(matched, written, out=np.zeros(_ORDERS), where=written > 0)
        return float(per_ngram.sum() * math.exp(-_PENALTY_RATE * shortness**2))


def _ngrams(words: Sequence[str]) -> Counter[Ngram]:
    return Counter(
        tuple(words[start : start + n]) for n in range(1, _ORDERS + 1) for start in range(len(words) - n + 1)
    )


def _information(references: Iterable[Sequence[str]]) -> dict[Ngram, float]:
    counts: Counter[Ngram] = Counter()
    num_words = 0
    for words in references:
        counts.update(_ngrams(words))
        num_words += len(words)
    return {ngram: math.log2((counts[ngram[:-1]] or num_words) / count) for ngram, count in counts.items()}


def _matched(
    hypothesis: Sequence[str], references: Sequence[Sequence[str]], information: dict[Ngram, float]
) -> list[float]:
    """The information of the matched n-grams for each order, then the number of n-grams for each order."""
    written = _ngrams(hypothesis)
    most: Counter[Ngram] = Counter()
    for reference in references:
        most |= _ngrams(reference)
    matched, total = [0.0] * _ORDERS, [0.0] * _ORDERS
    for ngram, count in written.items():
        total[len(ngram) - 1] += count
        matched[len(ngram) - 1] += min(count, most[ngram]) * information.get(ngram, 0.0)
    return [*matched, *total]
